"""Steps carried out on the terms that were set: by an executor, within limits, again after a fault
that may pass.
"""

from __future__ import annotations

import contextlib
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path

from sintra.build.admission import Gate
from sintra.build.step import Step
from sintra.build.worker import TRANSIENT
from sintra.build.worker_process import Ending, Executor, Need
from sintra.config.policy import Terms
from sintra.core import plugins
from sintra.core.process import LIVE_JOBS, STOP_REQUESTED
from sintra.core.stage import cores
from sintra.core.types import Artifact
from sintra.store.store import Store

GIB = 2**30
START_UP = 0.6 * GIB  # torch and llama.cpp, loaded
PER_BYTE = 3.0  # the memory of a heavy step for each byte of its inputs
KILLED = (-9, -15)


class Engine:
    """An executor, and the gate to this machine where it runs here."""

    def __init__(self, terms: Terms, root: Path) -> None:
        self.terms = terms
        self.executor: Executor = plugins.load("executors", terms.name)(
            json.loads(terms.executor), root
        )
        self.gate = Gate(
            cores(), terms.heavy, int(terms.memory_gb * GIB) if terms.memory_gb else spare()
        )

    def need(self, step: Step, store: Store) -> Need:
        """What a step asks for."""
        stage = step.plugin
        limit = self.terms.seconds(step.stage, step.hints.get("timeout_s"), stage.timeout_s)
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

    def carry_out(self, need: Need, order: Callable[[Need], Path]) -> Ending:
        """Run a worker to its end. order: writes the order's file."""
        with self.gate.hold(need) if self.executor.here else contextlib.nullcontext():
            if self.terms.over or STOP_REQUESTED.is_set():
                return Ending("cancelled" if STOP_REQUESTED.is_set() else "late")
            path = order(need)
            try:
                job = self.executor.submit(path, need)
                LIVE_JOBS.add(job)
                if STOP_REQUESTED.is_set():  # the signal came while it was submitted
                    job.cancel()
                try:
                    return job.wait(self.terms.until)
                finally:
                    LIVE_JOBS.discard(job)
            finally:
                path.unlink(missing_ok=True)

    def run(self, need: Need, order: Callable[[Need], Path], say: Callable[[str], None]) -> Ending:
        """The same, again where that may help."""
        tries = 0
        while True:
            ending = self.carry_out(need, order)
            if STOP_REQUESTED.is_set():
                return ending
            if ending.cause == "memory" and (more := self.executor.more(need)):
                say(f"again   {need.name}: {memory_line(need, more)}")
                need = more
            elif passing(ending) and tries < self.executor.retries and not self.terms.over:
                tries += 1
                say(f"again   {need.name} ({tries} of {self.executor.retries}): {in_words(ending)}")
                STOP_REQUESTED.wait(min(2.0**tries, max(0.0, self.terms.until - time.monotonic())))
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
    found = (above.outcome(store) for above in step.inputs.values())
    files = {
        f.sha256: f.size
        for outcome in found
        if isinstance(outcome, Artifact)
        for f in outcome.files
    }
    return int(START_UP + PER_BYTE * sum(files.values()))


def spare() -> int:
    """The memory that this machine, or this container, can give now, bytes."""
    import psutil

    from sintra.hardware.detect.cgroups import limits

    free, found = int(psutil.virtual_memory().available), limits()
    return min(free, found.memory - (found.used or 0)) if found.memory else free


@functools.cache
def engine(terms: Terms, root: Path) -> Engine:
    """The engine of these terms; one for all studies of a run, so that they share its gate."""
    return Engine(terms, root)
