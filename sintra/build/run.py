"""Build one step in a worker, and say what its end means."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypedDict

from sintra.build.engine import KILLED, engine, last_line
from sintra.build.leftovers import host_digest, sweep_once
from sintra.build.run_state import Run, current
from sintra.build.step import Step
from sintra.build.worker import TRANSIENT
from sintra.build.worker_process import ResourceRequest, WorkerExit
from sintra.config.policy import RunPolicy
from sintra.core.artifact import Artifact, Failure
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Hints
from sintra.store.store import Store


class Order(TypedDict):
    """What a worker is told to do, but for what the engine adds: threads and timeout_s."""

    key: str  # of the action
    stage: str
    step: str  # the step's name
    store: str  # the cache's folder, absolute
    action: dict[str, Any]  # what the key is made of
    hints: Hints  # what helps and isn't part of the key
    locks: str  # how the cache is locked (option store.lock_kind)
    cwd: str  # the working folder
    background: bool  # whether the worker has the lowest priority
    inputs: dict[str, list[dict[str, object]]]  # role -> files of the artifact


def run_step(
    step: Step,
    store: Store,
    policy: RunPolicy | None = None,
    say: Callable[[str], None] = lambda line: None,
    run: Run = current,
) -> None:
    """Make a step's artifact unless the store has it; a Failure is an outcome as well.

    `say` takes a line when the step is tried again. Raises UserError or Transient.
    """
    if step.outcome(store) is not None:
        return
    policy = policy or RunPolicy()
    action, key = step.action(store), step.key(store)
    if action is None or key is None:
        raise Transient(f"{step.name}: an input is missing; run the same again")
    sweep_once(store, run)
    machine = engine(policy, store.root.resolve())
    request = machine.request(step, store)
    order = order_of(step, store, key, action, policy.background)
    worker_exit = machine.run(request, lambda n: write_order(store, order, n), say, run)
    if worker_exit.cause == "memory":
        excuse_memory(key, store, worker_exit)
    else:
        raise_failure(step, worker_exit, policy, request.timeout_s, run)
    if step.outcome(store) is None:
        raise Transient(f"{step.name}: the worker ended without a result; run the same again")


def order_of(step: Step, store: Store, key: str, action: dict[str, Any], background: bool) -> Order:
    """Return the worker's order for a step whose inputs are in the store."""
    return {
        "key": key,
        "stage": step.stage,
        "step": step.name,
        "store": str(store.root.resolve()),
        "action": action,
        "hints": step.hints,
        "locks": store.lock_kind,
        "cwd": str(Path.cwd()),
        "background": background,
        "inputs": {role: files_of(above, store) for role, above in step.inputs.items()},
    }


def files_of(step: Step, store: Store) -> list[dict[str, object]]:
    """Return the files of a step's artifact, which must have been made."""
    outcome = step.outcome(store)
    assert isinstance(outcome, Artifact)
    return [asdict(file) for file in outcome.files]


def write_order(store: Store, order: Order, request: ResourceRequest) -> Path:
    """Write the order's file, which its worker reads, and whoever waits for the worker."""
    path = store.folder("orders") / f"{os.getpid()}.{time.monotonic_ns()}.{host_digest()}.json"
    path.write_text(
        json.dumps(order | {"threads": request.threads, "timeout_s": request.timeout_s})
    )
    return path


def excuse_memory(key: str, store: Store, worker_exit: WorkerExit) -> None:
    """Record lack of memory as the step's failure for the rest of this run."""
    message = f"its worker was killed for want of memory ({last_line(worker_exit)})"
    store.fail_this_run(key, Failure("out_of_memory", message))


def raise_failure(
    step: Step, worker_exit: WorkerExit, policy: RunPolicy, timeout_s: float, run: Run
) -> None:
    """Raise UserError or Transient for a worker that didn't end well."""
    last = last_line(worker_exit)
    if worker_exit.cause == "exit":
        raise_exit(step, worker_exit, last)
    elif worker_exit.cause == "late" and run.is_over(policy):
        raise Transient(
            f"{step.name}: the run's time is up (limits.study_minutes={policy.minutes:g}); the "
            "same goes on"
        )
    elif worker_exit.cause == "late":
        raise Transient(
            f"{step.name}: stopped after {timeout_s:g} s, its time limit "
            f"(limits.timeout.{step.stage}=...)"
        )
    elif worker_exit.cause == "cancelled":
        raise Transient(f"{step.name}: cancelled{f' ({last})' if worker_exit.log else ''}")
    else:
        raise Transient(f"{step.name}: {last}; nothing was kept, run the same again")


def raise_exit(step: Step, worker_exit: WorkerExit, last: str) -> None:
    """Raise UserError or Transient for an exit code other than 0."""
    if worker_exit.code == 0:
        return
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
