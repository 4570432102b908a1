"""Run a step in a worker: resources, time limit, and words for what went wrong."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from sintra.errors import Transient, UserError
from sintra.graph import Step
from sintra.signals import LIVE, kill_group
from sintra.stage import PROGRESS, Resource, cores
from sintra.store import Store
from sintra.types import Artifact
from sintra.worker import LOG_TAIL, TRANSIENT


class Gate:
    """A counting gate over the machine: a light step takes 1, a heavy one all cores, one alone everything."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.free = size + 1
        self.changed = threading.Condition()

    @contextmanager
    def hold(self, kind: Resource) -> Iterator[None]:
        """Wait until there is room for a step of this kind."""
        need = {"light": 1, "heavy": self.size, "alone": self.size + 1}[kind]
        with self.changed:
            self.changed.wait_for(lambda: self.free >= need)
            self.free -= need
        try:
            yield
        finally:
            with self.changed:
                self.free += need
                self.changed.notify_all()


GATE = Gate(cores())
FOLLOW_S = 0.5


def environment(threads: int) -> dict[str, str]:
    """The worker's environment: bounded threads, no bars or telemetry of libraries, our process as its parent."""
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1", "TRANSFORMERS_VERBOSITY": "error"}
    bound = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    return {**os.environ, **quiet, **bound, "SINTRA_PARENT": str(os.getpid())}


def run_step(step: Step, store: Store, timeout_s: float | None = None, say: Callable[[str], None] = lambda _: None) -> None:
    """Make a step's artifact unless the store has it. Raises UserError or Transient; a Failure is a result."""
    if step.outcome(store) is not None:
        return
    action, key = step.action(store), step.key(store)
    if action is None or key is None:
        raise Transient(f"{step.name}: an input is missing; run the same again")
    stage = step.plugin
    timeout_s = timeout_s or step.hints.get("timeout_s")
    with GATE.hold(stage.resource):
        threads = 1 if stage.resource == "light" else cores()
        order = {"key": key, "stage": step.stage, "step": step.name, "store": str(store.root.resolve()),
                 "action": action, "hints": step.hints, "threads": threads,
                 "inputs": {role: _files(above, store) for role, above in step.inputs.items()}}  # fmt: skip
        sweep_once(store)
        path = store.folder("orders") / f"{os.getpid()}.{time.monotonic_ns()}.json"
        path.write_text(json.dumps(order))
        try:
            code, log = _spawn(path, environment(threads), timeout_s or stage.timeout_s, lambda x: say(f"{step.name}: {x}"))
        finally:
            path.unlink(missing_ok=True)
    _explain(step, code, log, timeout_s or stage.timeout_s)
    if step.outcome(store) is None:
        raise Transient(f"{step.name}: the worker ended without a result; run the same again")


_swept: set[Path] = set()


def sweep_once(store: Store) -> None:
    """Before the first step of this process: remove what killed workers and killed `doit`s left behind."""
    if store.root in _swept:
        return
    _swept.add(store.root)
    store.sweep_tmp()
    for path in store.folder("orders").iterdir():
        try:
            os.kill(int(path.name.split(".")[0]), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except PermissionError:
            continue


def _files(step: Step, store: Store) -> list[dict[str, object]]:
    outcome = step.outcome(store)
    assert isinstance(outcome, Artifact)
    return [asdict(f) for f in outcome.files]


def _follow(path: Path, ended: threading.Event, say: Callable[[str], None]) -> None:
    """Pass on the lines of a growing log that are marked as progress."""
    with path.open(errors="replace") as log:
        begun, last = "", False
        while not last:
            last = ended.wait(FOLLOW_S)
            begun += log.read()
            *lines, begun = begun.split("\n")
            for line in lines:
                if line.startswith(PROGRESS):
                    say(line.removeprefix(PROGRESS))


def _spawn(order: Path, env: dict[str, str], timeout_s: float, say: Callable[[str], None]) -> tuple[int | None, str]:
    """Exit code (None: out of time) and the tail of the log. The whole process group is gone afterwards."""
    log_path = order.with_suffix(".log")
    with log_path.open("w+b") as log:
        process = subprocess.Popen([sys.executable, "-m", "sintra.worker", str(order)], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=log, env=env, start_new_session=True)  # fmt: skip
        LIVE.add(process)
        ended = threading.Event()
        follower = threading.Thread(target=_follow, args=(log_path, ended, say), daemon=True)
        follower.start()
        try:
            code: int | None = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            kill_group(process)
            ended.set()
            follower.join()
            LIVE.discard(process)
        log.seek(max(0, log.tell() - LOG_TAIL) if log.seek(0, os.SEEK_END) > LOG_TAIL else 0)
        text = log.read().decode(errors="replace")
    log_path.unlink(missing_ok=True)
    return code, text


def _explain(step: Step, code: int | None, log: str, timeout_s: float) -> None:
    """Raise what the worker's end means."""
    last = next((x for x in reversed(log.splitlines()) if x.strip()), "")
    if code == 0:
        return
    if code is None:
        raise Transient(f"{step.name}: stopped after {timeout_s:g} s, its time limit (timeout_s=...)")
    if code == 2 and last.startswith("sintra: "):
        raise UserError(last.removeprefix("sintra: "))
    if code == TRANSIENT:
        raise Transient(f"{step.name}: {last.removeprefix('sintra: ')}")
    if code == -signal.SIGKILL:
        raise Transient(f"{step.name}: its worker was killed (out of memory, or by hand); nothing was kept, run the same again")
    raise Transient(f"{step.name}: its worker crashed (exit {code}): {last}")
