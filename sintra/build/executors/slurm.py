"""Workers as jobs of a Slurm cluster, submitted by submitit (extra `slurm`). The cache folder must
be shared with the nodes.

What became of a job is asked of `squeue`, once for all jobs, and of `sacct` only where that knows
no more: many clusters keep no accounts. Job states: https://slurm.schedmd.com/job_state_codes.html
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from sintra.build.remote_worker import Watched, run_order
from sintra.build.worker_process import Ending, Need
from sintra.config.options import ExecutorConf
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Resource

SPARE_S = (
    180  # between a step's own time limit and its job's, which the scheduler enforces less gently
)
ALIVE = {
    "PENDING",
    "RUNNING",
    "CONFIGURING",
    "COMPLETING",
    "SUSPENDED",
    "REQUEUED",
    "REQUEUE_HOLD",
    "REQUEUE_FED",
    "RESIZING",
    "SIGNALING",
    "STAGE_OUT",
    "STOPPED",
    "SPECIAL_EXIT",
    "RESV_DEL_HOLD",
    "UNKNOWN",
}


class States:
    """What Slurm says of this user's jobs."""

    def __init__(self, poll_s: float) -> None:
        self.poll_s = poll_s
        self.lock = threading.Lock()
        self.asked = float("-inf")
        self.known: dict[str, str] = {}

    def of(self, job: str, since: float) -> str:
        """The state of a job that is there since then: UNKNOWN while Slurm doesn't answer, GONE
        where it has forgotten it.
        """
        with self.lock:
            if time.monotonic() > self.asked + self.poll_s:
                self._ask()
            if job in self.known or not self.known or since > self.asked:
                return self.known.get(job, "UNKNOWN")
            self.known[job] = self._accounted(job)
            return self.known[job]

    def _ask(self) -> None:
        self.asked = time.monotonic()
        lines = _answer(
            ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i %T"]
        )
        rows = (line.partition(" ") for line in lines or ())
        self.known = {} if lines is None else {"": ""} | {job: state for job, _, state in rows}

    def _accounted(self, job: str) -> str:
        lines = _answer(
            [
                "sacct",
                "--noheader",
                "--allocations",
                "--parsable2",
                "--format=State",
                f"--jobs={job}",
            ]
        )
        return lines[0].split()[0] if lines else "GONE"


def _answer(command: list[str]) -> list[str] | None:
    """A command's lines, or None where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else [x.strip() for x in done.stdout.splitlines() if x.strip()]


def meaning(state: str) -> Ending | None:
    """What a job's state means for its step; None while it may still end by itself."""
    word = state.split()[0].rstrip("+")
    if word in ALIVE:
        return None
    cause = {
        "OUT_OF_MEMORY": "memory",
        "TIMEOUT": "late",
        "DEADLINE": "late",
        "CANCELLED": "cancelled",
        "COMPLETED": "exit",
    }
    return Ending(cause.get(word, "lost"), 0, f"Slurm says {word}")  # type: ignore[arg-type]


class SlurmJob(Watched):
    """A job of the cluster's, or a process of submitit's local one."""

    def __init__(
        self, job: Any, order: Path, folder: Path, poll_s: float, states: States | None
    ) -> None:
        super().__init__(order, poll_s)
        self.job, self.folder, self.states = job, folder, states
        self.since = time.monotonic()

    def gone(self) -> Ending | None:
        """See Watched."""
        if self.states is None:
            return Ending("exit", 0, f"submitit says {self.job.state}") if self.job.done() else None
        return meaning(self.states.of(self.job.job_id, self.since))

    def stop(self) -> None:
        """See Watched. submitit's stand-in passes SIGTERM on to `run_order`; its own way is SIGINT,
        which prints tracebacks.
        """
        if self.states is not None:
            self.job.cancel(check=False)
        elif not self.job.done():
            os.kill(int(self.job.job_id), signal.SIGTERM)

    def wait(self, until: float) -> Ending:
        """See Job. What submitit wrote is removed, pickles unread."""
        try:
            return super().wait(until)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Slurm:
    """executor=slurm. cluster: slurm, or local for submitit's stand-in."""

    here = False

    def __init__(self, options: ExecutorConf, root: Path) -> None:
        try:
            import submitit
        except ImportError:
            raise UserError(
                "executor=slurm needs submitit: pip install -c constraints.txt -e '.[slurm]'"
            ) from None
        if options.cluster not in ("slurm", "local"):
            raise UserError(
                f"executor.cluster={options.cluster!r}: use slurm, or local for submitit's own "
                "processes"
            )
        if options.cluster == "slurm" and shutil.which("sbatch") is None:
            raise UserError(
                "executor=slurm: there is no sbatch here; executor.cluster=local runs its jobs on "
                "this machine"
            )
        self.submitit, self.options, self.root = submitit, options, root
        self.retries, self.mem_gb = options.retries, options.mem_gb
        self.states = States(options.poll_s) if options.cluster == "slurm" else None
        self.lock = threading.Lock()

    def threads(self, resource: Resource) -> int:
        """See Executor."""
        return 1 if resource == "light" else int(self.options.cpus)

    def parameters(self, need: Need) -> dict[str, Any]:
        """submitit's parameters for a step."""
        options = self.options
        minutes = options.minutes or math.ceil((need.timeout_s + SPARE_S) / 60)
        partition = (options.measure if need.measures else None) or options.partition
        found = {
            "name": f"sintra-{need.name}"[:60],
            "timeout_min": minutes,
            "cpus_per_task": need.threads,
            "nodes": 1,
            "tasks_per_node": 1,
            "mem_gb": need.mem_gb,
            "slurm_partition": partition,
            "gpus_per_node": options.gpus if need.resource != "light" else None,
            "slurm_additional_parameters": dict(options.sbatch) or None,
            "slurm_exclusive": True if need.resource == "alone" else None,
        }
        return {k: v for k, v in found.items() if v}

    def submit(self, order: Path, need: Need) -> SlurmJob:
        """See Executor."""
        folder = self.root / "jobs" / order.stem
        folder.mkdir(parents=True, mode=0o700)
        try:
            with self.lock:  # submitit changes to and fro between folders
                executor = self.submitit.AutoExecutor(folder=folder, cluster=self.options.cluster)
                executor.update_parameters(**self.parameters(need))
                job = executor.submit(run_order, str(order))
        except (RuntimeError, ValueError, OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _refused(error) from None
        return SlurmJob(job, order, folder, self.options.poll_s, self.states)

    def more(self, need: Need) -> Need | None:
        """See Executor: twice the memory, up to executor.max_mem_gb."""
        most = self.options.max_mem_gb
        if need.mem_gb is None or most is None or need.mem_gb >= most:
            return None
        return replace(need, mem_gb=min(most, 2 * need.mem_gb))


def _refused(error: Exception) -> Exception:
    """A submission that failed: a mistake in the options where sbatch says so, else a fault that
    may pass.
    """
    lines = [x for x in str(getattr(error, "stderr", None) or error).splitlines() if x.strip()]
    text = next(
        (x for x in lines if "sbatch: error" in x), lines[-1] if lines else type(error).__name__
    ).strip()
    passing = any(
        x in text
        for x in ("Unable to contact", "Socket timed out", "Connection refused", "temporarily")
    )
    return (
        Transient(f"Slurm took no job: {text}")
        if passing
        else UserError(f"Slurm took no job: {text}")
    )
