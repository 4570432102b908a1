"""Carry out steps: by an executor, within limits, again after a fault that may pass."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from pathlib import Path

from sintra.build.admission import Gate
from sintra.build.run_state import Run
from sintra.build.step import Step
from sintra.build.worker import TRANSIENT
from sintra.build.worker_process import Executor, ResourceRequest, WorkerExit
from sintra.config.policy import RunPolicy
from sintra.core import plugins
from sintra.core.artifact import Artifact
from sintra.core.process import LIVE_JOBS, STOP_REQUESTED
from sintra.core.stage import cores
from sintra.hardware.detect.cgroups import cgroup_limits
from sintra.store.store import Store

GIB = 2**30
START_UP = 0.6 * GIB  # torch and llama.cpp, loaded
PER_BYTE = 3.0  # the memory of a heavy step for each byte of its inputs
KILLED = (-9, -15)
WriteOrder = Callable[[ResourceRequest], Path]


class Engine:
    """An executor, with the gate to this machine where it runs here."""

    def __init__(self, policy: RunPolicy, root: Path) -> None:
        self.policy = policy
        self.executor: Executor = plugins.load("executors", policy.executor.name)(
            policy.executor, root
        )
        self.gate = Gate(
            cores(),
            policy.heavy,
            int(policy.memory_gb * GIB) if policy.memory_gb else free_memory(),
        )

    def request(self, step: Step, store: Store) -> ResourceRequest:
        """Return what a step asks for."""
        stage = step.plugin
        limit = self.policy.seconds(step.stage, step.hints.get("timeout_s"), stage.timeout_s)
        share = {"light": 1, "heavy": self.gate.share, "alone": self.gate.size}[stage.resource]
        threads = share if self.executor.here else self.executor.threads(stage.resource)
        return ResourceRequest(
            step.name,
            stage.resource,
            threads,
            stage.platform,
            limit,
            memory_guess(step, store),
            self.executor.mem_gb,
        )

    def run_once(self, request: ResourceRequest, write_order: WriteOrder, run: Run) -> WorkerExit:
        """Run a worker to its end; `write_order` returns the order's file, which is removed."""
        with self.gate.hold(request) if self.executor.here else contextlib.nullcontext():
            if run.is_over(self.policy) or STOP_REQUESTED.is_set():
                return WorkerExit("cancelled" if STOP_REQUESTED.is_set() else "late")
            path = write_order(request)
            log = path.with_suffix(".log")
            run.console.expect_log(request.name, log)
            try:
                job = self.executor.submit(path, request)
                if self.executor.here:
                    run.console.open_log(log)
                LIVE_JOBS.add(job)
                if STOP_REQUESTED.is_set():  # the signal came while it was submitted
                    job.cancel()
                try:
                    return job.wait(run.deadline(self.policy))
                finally:
                    LIVE_JOBS.discard(job)
            finally:
                path.unlink(missing_ok=True)

    def run(
        self,
        request: ResourceRequest,
        write_order: WriteOrder,
        say: Callable[[str], None],
        run: Run,
    ) -> WorkerExit:
        """Run a worker to its end, again with more memory or after a fault that may pass."""
        tries = 0
        while True:
            worker_exit = self.run_once(request, write_order, run)
            if STOP_REQUESTED.is_set():
                return worker_exit
            if worker_exit.cause == "memory" and (more := self.executor.more(request)):
                say(f"again   {request.name}: {memory_line(request, more)}")
                request = more
            elif self.may_retry(worker_exit, tries, run):
                tries += 1
                number = f"{tries} of {self.executor.retries}"
                say(f"again   {request.name} ({number}): {last_line(worker_exit)}")
                remaining_s = run.deadline(self.policy) - time.monotonic()
                STOP_REQUESTED.wait(min(2.0**tries, max(0.0, remaining_s)))
            else:
                return worker_exit

    def may_retry(self, worker_exit: WorkerExit, tries: int, run: Run) -> bool:
        """Return whether a step that ended so is tried again after so many tries."""
        left = tries < self.executor.retries and not run.is_over(self.policy)
        return left and may_pass(worker_exit)


def may_pass(worker_exit: WorkerExit) -> bool:
    """Return whether the same may end otherwise next time.

    It was lost with its machine, was killed, or the worker itself says so.
    """
    return worker_exit.cause == "lost" or (
        worker_exit.cause == "exit" and worker_exit.code in (TRANSIENT, *KILLED)
    )


def last_line(worker_exit: WorkerExit) -> str:
    """Return the last line of a worker's log, or what is known of its end."""
    last = next((x for x in reversed(worker_exit.log.splitlines()) if x.strip()), "")
    return last.removeprefix("sintra: ") or (
        "its worker was killed" if worker_exit.code in KILLED else worker_exit.cause
    )


def memory_line(request: ResourceRequest, more: ResourceRequest) -> str:
    """Return what is asked for after memory ran out, in words."""
    if more.mem_gb != request.mem_gb:
        return f"{request.mem_gb:g} GiB were too little, now with {more.mem_gb:g}"
    return "killed for want of memory, now with nothing beside it"


def memory_guess(step: Step, store: Store) -> int:
    """Return a guess at a heavy step's memory, bytes: three times its inputs, and libraries."""
    if step.plugin.resource != "heavy":
        return 0
    outcomes = (above.outcome(store) for above in step.inputs.values())
    files = {
        f.sha256: f.size
        for outcome in outcomes
        if isinstance(outcome, Artifact)
        for f in outcome.files
    }
    return int(START_UP + PER_BYTE * sum(files.values()))


def free_memory() -> int:
    """Return the memory that this machine, or this container, can give now, bytes."""
    import psutil  # not on the no-op path

    free, group = int(psutil.virtual_memory().available), cgroup_limits()
    return min(free, group.memory - (group.used or 0)) if group.memory else free


@functools.cache
def engine(policy: RunPolicy, root: Path) -> Engine:
    """Return the engine of a policy; the studies of a run share one, and so its gate."""
    return Engine(policy, root)
