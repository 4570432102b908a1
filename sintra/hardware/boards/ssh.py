"""A board over SSH: what it is, and a model measured there.

On the board, in device.folder: blobs/SHA256 (models, kept for the next time), our two files under
their own SHA-256, a lock, and, where device.install=true, an environment with llama-cpp-python.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import shlex
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import asyncssh

from sintra.config.options import DeviceConf
from sintra.core.errors import Transient, UserError
from sintra.hardware.boards.connection import Target, connected, lost
from sintra.hardware.boards.transfer import Remote, sent
from sintra.store.files import hash_file

HERE = Path(__file__).parent
TRIES, WAIT_S, INSTALL_S, QUICK_S = 4, 2.0, 3600, 120
Job = dict[str, Any]
Say = Callable[[str], None]
T = TypeVar("T")


class Board:
    """The board of the options device.*; say: a line of progress."""

    def __init__(self, options: DeviceConf, say: Say = lambda _: None) -> None:
        self.target, self.say = Target.of(options), say

    def identify(self) -> dict[str, Any]:
        """What is there: host key, processor, cores, memory and its limit, power mode, runtime.
        Raises UserError, Transient.
        """
        return self._patiently(self._identify)

    def measure(
        self, job: Job, path: Path, digest: str, expected: dict[str, Any]
    ) -> dict[str, Any]:
        """Copy the file where the board lacks it and run a job of sintra.hardware.boards.runner on it: the
        runner's answer.

        expected: what `identify` said, since a measurement belongs to it. A lost connection is
        taken up again.
        """
        return self._patiently(lambda remote: self._measure(remote, job, path, digest, expected))

    def _patiently(self, work: Callable[[Remote], Awaitable[T]]) -> T:
        for attempt in range(1, TRIES + 1):
            try:
                return asyncio.run(self._connected(work))
            except Exception as error:
                if not lost(error):
                    raise
                why = f"{type(error).__name__}: {error}".rstrip(": ")
                if attempt == TRIES:
                    raise Transient(
                        f"the connection to {self.target.name} was lost {TRIES} times ({why})"
                    ) from None
                self.say(f"the connection to {self.target.name} was lost ({why}); trying again")
                asyncio.run(asyncio.sleep(WAIT_S * (attempt - 1)))
        raise AssertionError

    async def _connected(self, work: Callable[[Remote], Awaitable[T]]) -> T:
        # When the line is cut, every block on its way has an error of its own, and asyncio would
        # print those nobody asks for.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        async with connected(self.target) as connection, connection.start_sftp_client() as sftp:
            remote = Remote(connection, sftp, self.target.folder)
            await sftp.makedirs(f"{remote.folder}/blobs", exist_ok=True)
            return await work(remote)

    async def _identify(self, remote: Remote) -> dict[str, Any]:
        found: dict[str, Any] = await self._asked(
            remote, {"job": "machine", "bench": self.target.bench}
        )
        if not found["runtime"]["kind"] and self.target.install:
            await self._install(remote)
            found = await self._asked(remote, {"job": "machine", "bench": ""})
        if not found["runtime"]["kind"]:
            raise UserError(
                f"{self.target.name} has no llama.cpp: {await self._python(remote)} there can't "
                "import llama_cpp and PATH has no llama-bench: set device.python, device.bench or "
                "device.install=true"
            )
        key = remote.connection.get_server_host_key()
        return found | {"host_key": key.get_fingerprint() if key else ""}

    async def _measure(
        self, remote: Remote, job: Job, path: Path, digest: str, expected: dict[str, Any]
    ) -> dict[str, Any]:
        now = await self._identify(remote)
        if now != expected:
            other = ", ".join(k for k in now if now[k] != expected.get(k))
            raise UserError(
                f"the board at {self.target.name} isn't what it was ({other}): refresh=true takes "
                "it as it is"
            )
        await self._copy(remote, path, digest)
        given = {
            "gguf": remote.blob(digest),
            "lock": f"{remote.folder}/lock",
            "runtime": now["runtime"],
            "child": await self._put(remote, "child.py"),
            "timeout_s": self.target.timeout_s,
        }
        return await self._asked(remote, job | given, self.target.timeout_s + QUICK_S)

    async def _copy(self, remote: Remote, path: Path, digest: str) -> None:
        """The file, where it isn't there yet; what arrived is hashed on the board."""
        if await remote.size(remote.blob(digest)) == path.stat().st_size:
            self.say(f"{digest[:12]} is on {self.target.name} already: nothing copied")
            return
        need = path.stat().st_size - (await remote.size(remote.part(digest)) or 0)
        left = await self._asked(
            remote,
            {"job": "room", "folder": f"{remote.folder}/blobs", "bytes": need, "keep": digest},
        )
        if left["free"] < need:
            raise Transient(
                f"{self.target.name} has no room for {need / 1e6:.0f} MB in {remote.folder} "
                "(device.folder): free some"
            )
        for _ in range(2):
            await sent(remote, path, digest, self.say)
            found = await self._asked(
                remote, {"job": "hash", "path": remote.part(digest)}, self.target.timeout_s
            )
            if found["sha256"] == digest:
                await remote.sftp.posix_rename(remote.part(digest), remote.blob(digest))
                return
            self.say("what arrived is damaged: copied anew")
            await remote.sftp.remove(remote.part(digest))
        raise Transient(f"{path.name} arrived damaged on {self.target.name}, twice")

    async def _put(self, remote: Remote, name: str) -> str:
        """One of our own two files, under its content's name; its path there."""
        digest = hash_file(HERE / name)
        there = f"{remote.folder}/{Path(name).stem}-{digest[:16]}.py"
        if await remote.size(there) != (HERE / name).stat().st_size:
            await remote.sftp.put(str(HERE / name), there + ".part")
            await remote.sftp.posix_rename(there + ".part", there)
        return there

    async def _python(self, remote: Remote) -> str:
        """The Python that runs things there: the one that was asked for, an environment of ours, or
        python3.
        """
        own = f"{remote.folder}/venv/bin/python"
        if (self.target.install or not self.target.python) and await remote.size(own) is not None:
            return own
        return self.target.python or "python3"

    async def _asked(self, remote: Remote, job: Job, timeout_s: float = QUICK_S) -> dict[str, Any]:
        """The runner's answer to a job. What it says meanwhile is passed on."""
        python, runner = await self._python(remote), await self._put(remote, "runner.py")
        async with remote.connection.create_process(
            f"exec {quoted(python)} -u {shlex.quote(runner)}"
        ) as process:
            process.stdin.write(json.dumps(job) + "\n")
            end: dict[str, Any] | None = await asyncio.wait_for(self._heard(process), timeout_s)
            if end is not None:
                return end
            log, _ = await process.communicate() if process.exit_status is None else ("", "")
            errors = (await process.stderr.read() or log or "").strip().splitlines()
        code = process.exit_status
        if code == 127 or (code == 126 and not end):
            raise UserError(
                f"{self.target.name} has no {python} (device.python): name a Python 3.9 or later "
                "there"
            )
        if code is None:
            raise ConnectionResetError("the board hung up")
        last = errors[-1] if errors else f"exit code {code}"
        raise Transient(f"{self.target.name}: {python} broke off in {job['job']}: {last}")

    async def _heard(self, process: asyncssh.SSHClientProcess[str]) -> dict[str, Any] | None:
        async for line in process.stdout:
            if line.startswith("{"):
                row = json.loads(line)
                if "end" in row:
                    return dict(row["end"])
                self.say(words(row))
        return None

    async def _install(self, remote: Remote) -> None:
        """llama-cpp-python of our own version into an environment in our folder there: pip builds
        it, which takes a while.
        """
        version = importlib.metadata.version("llama-cpp-python")
        venv = shlex.quote(f"{remote.folder}/venv")
        self.say(
            f"installing llama-cpp-python {version} on {self.target.name}, which may take half an "
            "hour"
        )
        make = f"{quoted(self.target.python or 'python3')} -m venv {venv} && "
        make += f"{venv}/bin/python -m pip install -q llama-cpp-python=={version}"
        done = await remote.connection.run(make, timeout=INSTALL_S)
        if done.exit_status:
            last = (str(done.stderr).strip().splitlines() or ["no reason given"])[-1]
            raise Transient(f"llama-cpp-python can't be installed on {self.target.name}: {last}")


def quoted(path: str) -> str:
    """A path for the board's shell; a leading ~/ is the home there."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def words(row: dict[str, Any]) -> str:
    """A line of the runner's for people."""
    if "say" in row:
        return str(row["say"])
    heat = f", {row['celsius']:.0f} C" if row.get("celsius") is not None else ""
    clock = f", {row['mhz']:.0f} MHz" if row.get("mhz") is not None else ""
    return f"{row['t']:.0f} s in {row['phase']}: {row['rss'] / 2**20:.0f} MiB{heat}{clock}"
