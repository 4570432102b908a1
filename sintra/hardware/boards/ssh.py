"""Measure on a board over SSH: what the board is, and a model's speed or memory there.

On the board, in device.folder: blobs/SHA256 (models, kept for the next time), our two files under
their own SHA-256, a lock, and, where device.install=true, an environment with llama-cpp-python.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib.metadata
import json
import shlex
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import asyncssh

from sintra.config.options import DeviceConf
from sintra.core.errors import Transient, UserError
from sintra.hardware.boards.answers import is_answer, progress_text, read_row
from sintra.hardware.boards.connection import (
    SshTarget,
    is_connection_lost,
    open_connection,
    quote_path,
)
from sintra.hardware.boards.transfer import BoardFolder, send_file

if TYPE_CHECKING:
    from sintra.hardware.boards.runner import BoardDescription, BoardIdentity, RunResult

HERE = Path(__file__).parent
TRIES = 4  # connections, for one piece of work
WAIT_S = 2.0  # more before each further try, seconds
INSTALL_S, QUICK_S = 3600, 120  # time limits of an installation, of a job without a model
NO_COMMAND, NOT_EXECUTABLE = 127, 126  # a shell's exit codes

Job = Mapping[str, Any]  # one of sintra.hardware.boards.runner's
Say = Callable[[str], None]  # takes a line of progress
T = TypeVar("T")


class SshBoard:
    """The board of the options device.*."""

    def __init__(self, options: DeviceConf, say: Say = lambda _: None) -> None:
        """Set up the board; nothing is sent yet."""
        self.target, self.say = SshTarget.of(options), say

    def identify(self) -> BoardIdentity:
        """Return what is there: host key, processor, memory and its limit, power mode, runtime.

        Raises UserError, Transient.
        """
        return self._with_retries(self._identify)

    def measure(self, job: Job, path: Path, digest: str, expected: BoardIdentity) -> RunResult:
        """Copy the file where the board lacks it, run a job on it, and return the answer.

        expected: what `identify` returned, since a measurement belongs to it. A lost connection is
        opened again. Raises UserError, Transient.
        """
        return self._with_retries(lambda board: self._measure(board, job, path, digest, expected))

    def _with_retries(self, work: Callable[[BoardFolder], Awaitable[T]]) -> T:
        """Return what work gives; a lost connection is opened again. Raises Transient."""
        for attempt in range(1, TRIES + 1):
            try:
                return asyncio.run(self._with_connection(work))
            except Exception as error:
                if not is_connection_lost(error):
                    raise
                why = f"{type(error).__name__}: {error}".rstrip(": ")
                if attempt == TRIES:
                    raise Transient(
                        f"the connection to {self.target.name} was lost {TRIES} times ({why})"
                    ) from None
                self.say(f"the connection to {self.target.name} was lost ({why}); trying again")
                asyncio.run(asyncio.sleep(WAIT_S * (attempt - 1)))
        raise AssertionError

    async def _with_connection(self, work: Callable[[BoardFolder], Awaitable[T]]) -> T:
        # When the line is cut, every block on its way has an error of its own, and asyncio would
        # print those nobody asks for.
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
        async with (
            open_connection(self.target) as connection,
            connection.start_sftp_client() as sftp,
        ):
            board = BoardFolder(connection, sftp, self.target.folder)
            await sftp.makedirs(f"{board.folder}/blobs", exist_ok=True)
            return await work(board)

    async def _identify(self, board: BoardFolder) -> BoardIdentity:
        """Return what the board is, after installing a runtime where that is asked for."""
        job = {"job": "machine", "bench": self.target.bench}
        description: BoardDescription = await self._run_job(board, job)
        if not description["runtime"]["kind"] and self.target.install:
            await self._install(board)
            description = await self._run_job(board, job | {"bench": ""})
        if not description["runtime"]["kind"]:
            raise UserError(
                f"{self.target.name} has no llama.cpp: {await self._python(board)} there can't "
                "import llama_cpp and PATH has no llama-bench: set device.python, device.bench or "
                "device.install=true"
            )
        key = board.connection.get_server_host_key()
        return {**description, "host_key": key.get_fingerprint() if key else ""}

    async def _measure(
        self, board: BoardFolder, job: Job, path: Path, digest: str, expected: BoardIdentity
    ) -> RunResult:
        """Measure, unless the board has changed."""
        now = await self._identify(board)
        if now != expected:
            before: Mapping[str, object] = expected
            changed = ", ".join(k for k, value in now.items() if value != before.get(k))
            raise UserError(
                f"the board at {self.target.name} isn't what it was ({changed}): refresh=true "
                "takes it as it is"
            )
        await self._copy(board, path, digest)
        there = {
            "gguf": board.blob(digest),
            "lock": f"{board.folder}/lock",
            "runtime": now["runtime"],
            "child": await self._put(board, "child.py"),
            "timeout_s": self.target.timeout_s,
        }
        result: RunResult = await self._run_job(
            board, {**job, **there}, self.target.timeout_s + QUICK_S
        )
        return result

    async def _copy(self, board: BoardFolder, path: Path, digest: str) -> None:
        """Copy the file where it isn't there yet; what is there or arrived is hashed there."""
        size, blob = path.stat().st_size, board.blob(digest)
        if await board.size(blob) == size:
            if await self._hash(board, blob) == digest:
                self.say(f"{digest[:12]} is on {self.target.name} already: nothing copied")
                return
            self.say(f"{digest[:12]} on {self.target.name} is damaged: copied again")
            await board.sftp.remove(blob)
        await self._make_room(board, size - (await board.size(board.part(digest)) or 0), digest)
        for _ in range(2):
            await send_file(board, path, digest, self.say)
            if await self._hash(board, board.part(digest)) == digest:
                await board.sftp.posix_rename(board.part(digest), board.blob(digest))
                return
            self.say("what arrived is damaged: copied again")
            await board.sftp.remove(board.part(digest))
        raise Transient(f"{path.name} arrived damaged on {self.target.name}, twice")

    async def _hash(self, board: BoardFolder, path: str) -> str:
        """Return the SHA-256 of a file on the board."""
        job = {"job": "hash", "path": path}
        answer = await self._run_job(board, job, self.target.timeout_s)
        return str(answer["sha256"])

    async def _make_room(self, board: BoardFolder, size: int, digest: str) -> None:
        """Make room for so many bytes on the board. Raises Transient where there is none."""
        job = {"job": "room", "folder": f"{board.folder}/blobs", "bytes": size, "keep": digest}
        answer = await self._run_job(board, job)
        if answer["free"] < size:
            raise Transient(
                f"{self.target.name} has no room for {size / 1e6:.0f} MB in {board.folder} "
                "(device.folder): free some"
            )

    async def _put(self, board: BoardFolder, name: str) -> str:
        """Copy one of our own two files, under its content's name; return its path there.

        What is there is read back: it will be run.
        """
        content = (HERE / name).read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        path = f"{board.folder}/{Path(name).stem}-{digest[:16]}.py"
        if not await board.holds(path, content):
            await board.sftp.put(str(HERE / name), path + ".part")
            await board.sftp.posix_rename(path + ".part", path)
        return path

    async def _python(self, board: BoardFolder) -> str:
        """Return the Python there: the one of the options, an environment of ours, or python3."""
        own = f"{board.folder}/venv/bin/python"
        if (self.target.install or not self.target.python) and await board.size(own) is not None:
            return own
        return self.target.python or "python3"

    async def _run_job(self, board: BoardFolder, job: Job, timeout_s: float = QUICK_S) -> Any:
        """Return the runner's answer to a job; its progress is passed on.

        Raises UserError where the board lacks the Python, Transient where the runner fails.
        """
        python, runner = await self._python(board), await self._put(board, "runner.py")
        async with board.connection.create_process(
            f"exec {quote_path(python)} -u {shlex.quote(runner)}"
        ) as process:
            process.stdin.write(json.dumps(dict(job)) + "\n")
            answer = await asyncio.wait_for(self._read_answer(process), timeout_s)
            if is_answer(job["job"], answer):
                return answer
            if answer is not None:
                raise Transient(
                    f"{self.target.name}: the answer to {job['job']} isn't one of our runner's: "
                    f"is {python} a Python?"
                )
            log, said = await process.communicate() if process.exit_status is None else ("", "")
            errors = (said or await process.stderr.read() or log or "").strip().splitlines()
        code = process.exit_status
        if code in (NO_COMMAND, NOT_EXECUTABLE):
            raise UserError(
                f"{self.target.name} has no {python} (device.python): name a Python 3.9 or later "
                "there"
            )
        if code is None:
            raise ConnectionResetError("the board hung up")
        last = errors[-1] if errors else f"exit code {code}"
        raise Transient(f"{self.target.name}: {python} broke off in {job['job']}: {last}")

    async def _read_answer(self, process: asyncssh.SSHClientProcess[str]) -> Any:
        """Return what the runner's last line holds, or None where it ends without one."""
        async for line in process.stdout:
            row = read_row(line)
            if "end" in row:
                return row["end"]
            if text := progress_text(row):
                self.say(text)
        return None

    async def _install(self, board: BoardFolder) -> None:
        """Install llama-cpp-python of our own version into an environment in our folder there.

        pip builds it, which takes a while. Raises Transient where it fails.
        """
        version = importlib.metadata.version("llama-cpp-python")
        venv = shlex.quote(f"{board.folder}/venv")
        self.say(
            f"installing llama-cpp-python {version} on {self.target.name}, which may take half an "
            "hour"
        )
        command = f"{quote_path(self.target.python or 'python3')} -m venv {venv} && "
        command += f"{venv}/bin/python -m pip install -q llama-cpp-python=={version}"
        done = await board.connection.run(command, timeout=INSTALL_S)
        if done.exit_status:
            last = (str(done.stderr).strip().splitlines() or ["no reason given"])[-1]
            raise Transient(f"llama-cpp-python can't be installed on {self.target.name}: {last}")
