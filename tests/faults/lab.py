"""A small study that faults are tried on, and what must hold whatever happened: checked after each
run.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
HOOK = Path(__file__).resolve().parent / "hook"
PER_RUN = ("steps", "wall_s", "llm")
SPEEDS = {"pp_tps", "tg_tps"}
LIMIT_S = 300
OPTIONS = [
    "hardware=jetson_nano",
    "probe=quick",
    "model.check=false",
    "planner=ladder",
    "planner.types=[Q8_0]",
    "planner.rounding=nearest",
    "max_rounds=1",
    "goal.max_kld=9",
    "texts=stories",  # what the model writes itself takes most of the time
    "texts.second=null",
    "probe.search_tokens=256",
    "probe.report_tokens=512",
]


def python_path() -> str:
    """Where Python looks for modules: the hook, and where this process was told to look."""
    return os.pathsep.join([str(HOOK), *filter(None, [os.environ.get("PYTHONPATH")])])


@dataclass
class Tally:
    """What was done, and what went wrong: each violation in words."""

    name: str
    faults: int = 0
    runs: int = 0
    violations: list[str] = field(default_factory=list)
    note: str = ""

    def wrong(self, where: str, what: list[str]) -> None:
        """Keep violations with where they came up."""
        self.violations += [f"{self.name}, {where}: {x}" for x in what]

    def line(self) -> str:
        """For the table of counts."""
        return (
            f"{self.name:<22} {self.faults:>6} {self.runs:>6} {len(self.violations):>10}  "
            f"{self.note}"
        )


@dataclass
class Lab:
    """A project folder with its own cache; `start` is what the cache holds before the first step:
    the converter.
    """

    root: Path
    model: Path
    start: Path
    options: list[str] = field(default_factory=lambda: list(OPTIONS))
    wrapper: list[str] = field(default_factory=list)
    seen: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        for name in ("dodo.py", "conf", "models"):
            if not (self.root / name).is_symlink():
                (self.root / name).symlink_to(ROOT / name)
        self.fresh()

    @property
    def cache(self) -> Path:
        """The cache's folder."""
        return self.root / "cache"

    def fresh(self) -> None:
        """Back to an empty cache and no outputs; the cache's folder itself stays, since it may be a
        mount.
        """
        self.cache.mkdir(exist_ok=True)
        for path in self.cache.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.rmtree(self.root / "outputs", ignore_errors=True)
        shutil.copytree(self.start, self.cache, dirs_exist_ok=True)
        self.seen = {}

    def command(self, *words: str) -> list[str]:
        """doit with this lab's options."""
        return [*self.wrapper, sys.executable, "-m", "doit", *words]

    @property
    def optimize(self) -> list[str]:
        """The words of the main job."""
        return ["optimize", f"model={self.model}", *self.options]

    def env(self, fault: dict[str, Any] | None = None, **more: str) -> dict[str, str]:
        """The environment of a run, with the hook where a fault is set."""
        env = {
            **os.environ,
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_TOKEN": "",
            "OMP_NUM_THREADS": "1",
            **more,
        }
        if fault is None:
            return env
        counter = self.root / "counter"
        counter.unlink(missing_ok=True)
        whole = {
            "root": str(self.root),
            "log": None,
            "at": 1,
            "counter": str(counter),
            "filler": str(self.cache / ".filler"),
        }
        return env | {"FAULT": json.dumps(whole | fault), "PYTHONPATH": python_path()}

    def run(
        self, *words: str, fault: dict[str, Any] | None = None, **more: str
    ) -> subprocess.CompletedProcess[str]:
        """A command to its end; a hang is killed and comes back with exit code -999."""
        running = self.popen(*words, fault=fault, **more)
        try:
            out, err = running.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            os.killpg(running.pid, signal.SIGKILL)
            out, err = running.communicate()
            return subprocess.CompletedProcess(words, -999, out, err)
        return subprocess.CompletedProcess(words, running.returncode, out, err)

    def popen(
        self, *words: str, fault: dict[str, Any] | None = None, **more: str
    ) -> subprocess.Popen[str]:
        """A command in a session of its own."""
        return subprocess.Popen(
            self.command(*words),
            cwd=self.root,
            env=self.env(fault, **more),
            start_new_session=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def struck(self) -> bool:
        """Whether the armed fault has come."""
        return (self.root / "counter").exists()

    def entries(self) -> dict[str, tuple[int, int]]:
        """Every published key with its file's inode and time of change."""
        found = {}
        for path in (self.cache / "ac").glob("??/*.json"):
            stat = path.stat()
            found[path.stem] = (stat.st_ino, stat.st_mtime_ns)
        return found

    def published(self) -> list[str]:
        """Violations: what was published before and is gone, or was published again. Remembers what
        is there now.
        """
        now = self.entries()
        lost = [f"entry {k[:12]} is lost" for k in self.seen if k not in now]
        again = [
            f"entry {k[:12]} was published again"
            for k, mark in self.seen.items()
            if k in now and now[k] != mark
        ]
        self.seen = now
        return lost + again

    def sound(self) -> list[str]:
        """Violations: blobs that aren't what their names say, or are missing; entries that can't be
        read.
        """
        from sintra.store.maintenance import verify_blobs
        from sintra.store.store import Store

        return [
            f"{damage.problem}: {damage.file.path} of {damage.step}"
            for damage in verify_blobs(Store(self.cache))
        ]

    def left(self) -> list[str]:
        """Violations: what a finished run leaves lying about."""
        return [
            f"left behind: {p.name}" for d in ("tmp", "orders") for p in (self.cache / d).glob("*")
        ]

    def essence(self) -> str:
        """The result without times and measured speeds; "" where there is none."""
        path = self.root / "outputs" / "latest" / "result.json"
        if not path.exists():
            return ""
        result = json.loads(path.read_text())
        for row in [*result["candidates"], *([result["winner"]] if result["winner"] else [])]:
            row["measurements"] = [
                m
                for m in row["measurements"]
                if m["metric"].partition("@")[0] not in SPEEDS
                and not m["metric"].startswith("ram_")
            ]
        return json.dumps({k: v for k, v in result.items() if k not in PER_RUN}, sort_keys=True)


def told(done: subprocess.CompletedProcess[str], *codes: int) -> list[str]:
    """Violations: a traceback, a hang, another exit code."""
    wrong = (
        ["a traceback: " + done.stderr.strip().splitlines()[-1]]
        if "Traceback" in done.stderr
        else []
    )
    if done.returncode == -999:
        return [*wrong, "it hung"]
    return (
        wrong
        if done.returncode in codes
        else [*wrong, f"exit {done.returncode}: {done.stderr.strip()[-300:]}"]
    )


@dataclass
class Reference:
    """An uninterrupted run: what comes out, which keys, and every change that it makes on disk, in
    order.
    """

    essence: str
    keys: set[str]
    changes: list[str]


def reference(lab: Lab) -> Reference:
    """Run the study once, logged."""
    log = lab.root / "log"
    log.unlink(missing_ok=True)
    done = lab.run(*lab.optimize, fault={"log": str(log), "match": None, "do": None})
    assert done.returncode == 0, done.stderr
    found = Reference(lab.essence(), set(lab.entries()), log.read_text().splitlines())
    log.unlink()
    assert found.essence
    assert lab.sound() == []
    return found


def warmed(lab: Lab, folder: Path) -> Path:
    """A start for experiments that needn't convert the model each time: a finished study's cache up
    to the 16-bit file.
    """
    from sintra.store.store import Store

    shutil.rmtree(folder, ignore_errors=True)
    held, begun = Store(lab.cache), Store(folder)
    for record in list(held.read_entries()):
        if (
            record["stage"] in ("toolchain", "convert")
            or record["step"] == f"fetch:{lab.model.name}"
        ):
            pairs = [
                (held.blob_path(f["sha256"]), begun.blob_path(f["sha256"])) for f in record["files"]
            ]
            for source, target in [
                *pairs,
                (held.entry_path(record["key"]), begun.entry_path(record["key"])),
            ]:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(source, target)
    return folder


def whole(lab: Lab, ref: Reference) -> list[str]:
    """Violations after a run that ended well: everything is there once, sound, and as in an
    uninterrupted one.
    """
    wrong = lab.published() + lab.sound() + lab.left()
    if set(lab.seen) != ref.keys:
        wrong.append(
            f"{len(set(lab.seen) ^ ref.keys)} keys differ from those of an uninterrupted run"
        )
    if lab.essence() != ref.essence:
        wrong.append("the result differs from an uninterrupted run's")
    return wrong


def site(change: str) -> str:
    """A change without what is different each time: where in the program a write is."""
    plain = re.sub(r"[0-9a-f]{32,64}", "<hex>", change)
    plain = re.sub(r"/[0-9a-f]{2}(?=/|$)", "/<two>", plain)
    return re.sub(r"\d{4,}", "<number>", plain)


def pattern(place: str) -> str:
    """A regular expression for a site."""
    text = re.escape(place).replace("<hex>", "[0-9a-f]{32,64}")
    return "^" + text.replace("<two>", "[0-9a-f]{2}").replace("<number>", r"\d{4,}") + "$"


def laboratory(folder: Path | None = None) -> tuple[Path, Path, Path]:
    """A folder, a two-block Llama and a cache with the converter, for all experiments."""
    sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "models")]
    from conftest import make_llama

    from sintra.build.run import run_step
    from sintra.build.step import Step
    from sintra.stages.tools import toolchain_params
    from sintra.store.store import Store

    folder = folder or Path(tempfile.mkdtemp(prefix="sintra-faults-"))
    folder.mkdir(parents=True, exist_ok=True)
    run_step(Step("toolchain", "llama.cpp", toolchain_params()), Store(folder / "start"))
    tiny = folder / "tiny"
    return folder, tiny if tiny.exists() else make_llama(tiny, hidden=64), folder / "start"
