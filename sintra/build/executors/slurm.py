"""Run workers as jobs of a Slurm cluster, submitted by submitit (extra `slurm`).

The cache folder must be shared with the nodes. `squeue` is asked once for all jobs, and `sacct`
only for a job that squeue has forgotten: many clusters keep no accounts. Job states:
https://slurm.schedmd.com/job_state_codes.html
"""

from __future__ import annotations

import contextlib
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

from sintra.build.remote_worker import RemoteJob, run_order
from sintra.build.worker_process import ResourceRequest, WorkerExit
from sintra.config.options import ExecutorConf
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Resource

SPARE_S = 180  # seconds from a step's time limit to its job's, which the scheduler enforces
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

PASSING = ("Unable to contact", "Socket timed out", "Connection refused", "temporarily")


class JobStates:
    """What Slurm says of this user's jobs, asked every poll_s seconds."""

    def __init__(self, poll_s: float) -> None:
        self.poll_s = poll_s
        self.lock = threading.Lock()
        self.polled = float("-inf")
        self.states: dict[str, str] = {}

    def of(self, job: str, since: float) -> str:
        """Return the state of a job that was submitted at `since` (time.monotonic).

        It is UNKNOWN while Slurm doesn't answer, GONE where Slurm has forgotten the job.
        """
        with self.lock:
            if time.monotonic() > self.polled + self.poll_s:
                self._poll()
            if job in self.states or not self.states or since > self.polled:
                return self.states.get(job, "UNKNOWN")
            self.states[job] = self._accounted(job)
            return self.states[job]

    def _poll(self) -> None:
        self.polled = time.monotonic()
        lines = _output(
            ["squeue", "--noheader", "--states=all", f"--user={os.getuid()}", "--format=%i %T"]
        )
        rows = (line.partition(" ") for line in lines or ())
        self.states = {} if lines is None else {"": ""} | {job: state for job, _, state in rows}

    def _accounted(self, job: str) -> str:
        lines = _output(
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


def _output(command: list[str]) -> list[str] | None:
    """Return a command's lines, or None where it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return None if done.returncode else [x.strip() for x in done.stdout.splitlines() if x.strip()]


def exit_of_state(state: str) -> WorkerExit | None:
    """Return what a job's state means for its step; None while it may still end by itself."""
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
    return WorkerExit(cause.get(word, "lost"), 0, f"Slurm says {word}")  # type: ignore[arg-type]


class SlurmJob(RemoteJob):
    """A job of the cluster, or a process of submitit's stand-in."""

    def __init__(
        self, job: Any, order: Path, folder: Path, poll_s: float, states: JobStates | None
    ) -> None:
        super().__init__(order, poll_s)
        self.job, self.folder, self.states = job, folder, states
        self.since = time.monotonic()

    def scheduler_exit(self) -> WorkerExit | None:
        """Return what Slurm says of a job that is over; None while it may run."""
        if self.states is None:
            return (
                WorkerExit("exit", 0, f"submitit says {self.job.state}")
                if self.job.done()
                else None
            )
        return exit_of_state(self.states.of(self.job.job_id, self.since))

    def stop(self) -> None:
        """Tell the scheduler to end the job.

        submitit's stand-in gets SIGTERM, which it passes on to `run_order`; its own way is SIGINT,
        which prints tracebacks.
        """
        if self.states is not None:
            self.job.cancel(check=False)
        elif not self.job.done():
            os.kill(int(self.job.job_id), signal.SIGTERM)

    def wait(self, until: float) -> WorkerExit:
        """Block until the job has ended; what submitit wrote is removed, pickles unread."""
        try:
            return super().wait(until)
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)


class Slurm:
    """executor=slurm; executor.cluster=local takes submitit's stand-in."""

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
        check_private(root)
        self.submitit, self.options, self.root = submitit, options, root
        self.retries, self.mem_gb = options.retries, options.mem_gb
        self.states = JobStates(options.poll_s) if options.cluster == "slurm" else None
        self.lock = threading.Lock()

    def threads(self, resource: Resource) -> int:
        """Return the threads of a step."""
        return 1 if resource == "light" else int(self.options.cpus)

    def parameters(self, request: ResourceRequest) -> dict[str, Any]:
        """Return submitit's parameters for a step."""
        options = self.options
        minutes = options.minutes or math.ceil((request.timeout_s + SPARE_S) / 60)
        partition = (options.measure if request.measures else None) or options.partition
        values = {
            "name": f"sintra-{request.name}"[:60],
            "timeout_min": minutes,
            "cpus_per_task": request.threads,
            "nodes": 1,
            "tasks_per_node": 1,
            "mem_gb": request.mem_gb,
            "slurm_partition": partition,
            "gpus_per_node": options.gpus if request.resource != "light" else None,
            "slurm_additional_parameters": dict(options.sbatch) or None,
            "slurm_exclusive": True if request.resource == "alone" else None,
        }
        return {k: v for k, v in values.items() if v}

    def submit(self, order: Path, request: ResourceRequest) -> SlurmJob:
        """Start a worker on an order's file. Raises UserError, Transient."""
        folder = self.root / "jobs" / order.stem
        folder.mkdir(parents=True, mode=0o700)
        try:
            with self.lock:  # submitit changes to and fro between folders
                executor = self.submitit.AutoExecutor(folder=folder, cluster=self.options.cluster)
                executor.update_parameters(**self.parameters(request))
                job = executor.submit(run_order, str(order))
        except (RuntimeError, ValueError, OSError, subprocess.CalledProcessError) as error:
            shutil.rmtree(folder, ignore_errors=True)
            raise _refused(error) from None
        return SlurmJob(job, order, folder, self.options.poll_s, self.states)

    def more(self, request: ResourceRequest) -> ResourceRequest | None:
        """Return the same with twice the memory, up to executor.max_mem_gb."""
        most = self.options.max_mem_gb
        if request.mem_gb is None or most is None or request.mem_gb >= most:
            return None
        return replace(request, mem_gb=min(most, 2 * request.mem_gb))


def check_private(root: Path) -> None:
    """Check that no other user can put a job of theirs in the place of one of ours.

    submitit writes a job as a pickle below this folder, and the node runs what lies there. Raises
    UserError.
    """
    for folder in (root, root / "jobs"):
        with contextlib.suppress(FileNotFoundError):
            found = folder.stat()
            shared = found.st_mode & (0o020 if found.st_gid not in (0, os.getgid()) else 0) or (
                found.st_mode & 0o002
            )
            if shared or found.st_uid not in (0, os.getuid()):
                raise UserError(
                    f"executor=slurm runs what lies in {folder}, and other users can write there: "
                    "chmod go-w, or another store.path"
                )


def _refused(error: Exception) -> Exception:
    """Return what a failed submission means: a mistake in the options, or a fault that may pass."""
    lines = [x for x in str(getattr(error, "stderr", None) or error).splitlines() if x.strip()]
    text = next(
        (x for x in lines if "sbatch: error" in x), lines[-1] if lines else type(error).__name__
    ).strip()
    kind = Transient if any(words in text for words in PASSING) else UserError
    return kind(f"Slurm took no job: {text}")
