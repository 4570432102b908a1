"""The engine: runs steps by an executor, within limits, again after a fault that may pass."""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

from sintra.build.admission import Gate
from sintra.build.run_state import Run
from sintra.build.step import Step
from sintra.build.worker import TRANSIENT
from sintra.build.worker_process import Ending, Executor, Need
from sintra.config.policy import RunPolicy
from sintra.core import plugins
from sintra.core.process import LIVE, TOLD
from sintra.core.stage import cores
from sintra.core.types import Artifact
from sintra.store.store import Store

GIB = 2**30
START_UP = 0.6 * GIB  # torch and llama.cpp, loaded
PER_BYTE = 3.0  # the memory of a heavy step for each byte of its inputs
KILLED = (-9, -15)


class Engine:
    """An executor, and the gate to this machine where it runs here."""

    def __init__(self, policy: RunPolicy, root: Path) -> None:
        self.policy = policy
        self.executor: Executor = plugins.load("executors", policy.name)(
            json.loads(policy.executor), root
        )
        memory_bytes = int(policy.memory_gb * GIB) if policy.memory_gb else spare()
        self.gate = Gate(cores(), policy.heavy, memory_bytes)

    def need(self, step: Step, store: Store) -> Need:
        """What a step asks for."""
        stage = step.plugin
        limit = self.policy.seconds(step.stage, step.hints.get("timeout_s"), stage.timeout_s)
        share = {"light": 1, "heavy": self.gate.share, "alone": self.gate.size}[stage.resource]
        threads = share if self.executor.here else self.executor.threads(stage.resource)
        return Need(
            step.name,
            stage.resource,
            threads,
            stage.platform,
            limit,
            weight(step, store),
            self.executor.mem_gb,
        )

    def run_once(self, need: Need, write_order: Callable[[Need], Path], run: Run) -> Ending:
        """Run a worker to its end; `write_order` returns the order's file, which is removed."""
        with self.gate.hold(need) if self.executor.here else contextlib.nullcontext():
            if run.is_over(self.policy) or TOLD.is_set():
                return Ending("cancelled" if TOLD.is_set() else "late")
            path = write_order(need)
            run.console.expect_log(need.name, path.with_suffix(".log"))
            try:
                job = self.executor.submit(path, need)
                if self.executor.here:
                    run.console.open_log(path.with_suffix(".log"))
                LIVE.add(job)
                if TOLD.is_set():  # the signal came while it was submitted
                    job.cancel()
                try:
                    return job.wait(run.deadline(self.policy))
                finally:
                    LIVE.discard(job)
            finally:
                path.unlink(missing_ok=True)

    def run(
        self, need: Need, write_order: Callable[[Need], Path], say: Callable[[str], None], run: Run
    ) -> Ending:
        """Run a worker to its end, again with more memory or after a transient fault."""
        tries = 0
        while True:
            ending = self.run_once(need, write_order, run)
            if TOLD.is_set():
                return ending
            if ending.cause == "memory" and (more := self.executor.more(need)):
                say(f"again   {need.name}: {memory_line(need, more)}")
                need = more
            elif passing(ending) and tries < self.executor.retries and not run.is_over(self.policy):
                tries += 1
                say(f"again   {need.name} ({tries} of {self.executor.retries}): {in_words(ending)}")
                remaining_s = run.deadline(self.policy) - time.monotonic()
                TOLD.wait(min(2.0**tries, max(0.0, remaining_s)))
            else:
                return ending


def passing(ending: Ending) -> bool:
    """Whether the same may end otherwise next time: lost with its machine, killed, or the worker
    says so itself.
    """
    return ending.cause == "lost" or (
        ending.cause == "exit" and ending.code in (TRANSIENT, *KILLED)
    )


def in_words(ending: Ending) -> str:
    """The last thing that was said of a worker's end."""
    last = next((x for x in reversed(ending.log.splitlines()) if x.strip()), "")
    return last.removeprefix("sintra: ") or (
        "its worker was killed" if ending.code in KILLED else ending.cause
    )


def memory_line(need: Need, more: Need) -> str:
    """What is asked for after memory ran out."""
    if more.mem_gb != need.mem_gb:
        return f"{need.mem_gb:g} GiB were too little, now with {more.mem_gb:g}"
    return "killed for want of memory, now with nothing beside it"


def weight(step: Step, store: Store) -> int:
    """A rough guess at a heavy step's memory, bytes: what its inputs come to three times over, and
    the libraries.
    """
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


def spare() -> int:
    """The memory that this machine, or this container, can give now, bytes."""
    import psutil

    from sintra.hardware.detect.cgroups import limits

    free, cgroup = int(psutil.virtual_memory().available), limits()
    return min(free, cgroup.memory - (cgroup.used or 0)) if cgroup.memory else free


@functools.cache
def engine(policy: RunPolicy, root: Path) -> Engine:
    """Return the engine of a policy; one for all studies of a run, so that they share its gate."""
    return Engine(policy, root)
