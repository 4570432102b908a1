"""Run a step in a worker, and words for what went wrong."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintra.build.console import CONSOLE
from sintra.build.engine import KILLED, engine, last_line
from sintra.build.step import Step
from sintra.build.worker import TRANSIENT
from sintra.build.worker_process import ResourceRequest, WorkerExit
from sintra.config.policy import RunPolicy
from sintra.core.canonical import sha256
from sintra.core.errors import Transient, UserError
from sintra.core.types import Artifact, Failure
from sintra.store.store import Store


def run_step(
    step: Step,
    store: Store,
    policy: RunPolicy | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> None:
    """Make a step's artifact unless the store has it. Raises UserError or Transient; a Failure is a
    result.
    """
    if step.outcome(store) is not None:
        return
    policy = policy or RunPolicy()
    action, key = step.action(store), step.key(store)
    if action is None or key is None:
        raise Transient(f"{step.name}: an input is missing; run the same again")
    sweep_once(store)
    machine = engine(policy, store.root.resolve())
    order = {
        "key": key,
        "stage": step.stage,
        "step": step.name,
        "store": str(store.root.resolve()),
        "action": action,
        "hints": step.hints,
        "locks": store.lock_kind,
        "cwd": str(Path.cwd()),
        "background": policy.background,
        "inputs": {role: _files(above, store) for role, above in step.inputs.items()},
    }
    request = machine.request(step, store)
    worker_exit = machine.run(request, lambda n: write_order(store, order, n), say)
    _explain(step, store, worker_exit, policy, request.timeout_s)
    if step.outcome(store) is None:
        raise Transient(f"{step.name}: the worker ended without a result; run the same again")


def write_order(store: Store, order: dict[str, Any], request: ResourceRequest) -> Path:
    """The order as a file, which its worker and whoever waits for it read."""
    path = store.folder("orders") / f"{os.getpid()}.{time.monotonic_ns()}.{host()}.json"
    path.write_text(
        json.dumps(order | {"threads": request.threads, "timeout_s": request.timeout_s})
    )
    CONSOLE.log(request.name, path.with_suffix(".log"))
    return path


def host() -> str:
    """This machine, as a part of a file's name."""
    return sha256(os.uname().nodename)[:8]


_swept: set[Path] = set()


def sweep_once(store: Store) -> None:
    """Before the first step of this process: remove what killed workers and killed `doit`s left
    behind.
    """
    if store.root in _swept:
        return
    _swept.add(store.root)
    store.sweep_tmp()
    for path in store.folder("orders").glob(
        f"*.{host()}.*"
    ):  # on a shared cache, others' processes can't be asked after
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


def _explain(
    step: Step, store: Store, worker_exit: WorkerExit, policy: RunPolicy, timeout_s: float
) -> None:
    """Raise what the worker's end means; no memory to be had is the step's failure for the rest of
    this run.
    """
    last = last_line(worker_exit)
    if worker_exit.cause == "exit" and worker_exit.code == 0:
        return
    if worker_exit.cause == "memory":
        key = step.key(store)
        assert key is not None
        store.fail_this_run(
            key, Failure("out_of_memory", f"its worker was killed for want of memory ({last})")
        )
        return
    if worker_exit.cause == "late" and policy.over:
        raise Transient(
            f"{step.name}: the run's time is up (limits.study_minutes={policy.minutes:g}); the "
            "same goes on"
        )
    if worker_exit.cause == "late":
        raise Transient(
            f"{step.name}: stopped after {timeout_s:g} s, its time limit "
            f"(limits.timeout.{step.stage}=...)"
        )
    if worker_exit.cause == "cancelled":
        raise Transient(f"{step.name}: cancelled{f' ({last})' if worker_exit.log else ''}")
    if worker_exit.cause == "lost":
        raise Transient(f"{step.name}: {last}; nothing was kept, run the same again")
    if worker_exit.code == 2 and "sintra: " in worker_exit.log:
        raise UserError(last)
    if worker_exit.code == TRANSIENT:
        raise Transient(f"{step.name}: {last}")
    if worker_exit.code in KILLED:
        raise Transient(
            f"{step.name}: its worker was killed (out of memory, or by hand); nothing was kept, "
            "run the same again"
        )
    raise Transient(f"{step.name}: its worker crashed (exit {worker_exit.code}): {last}")
