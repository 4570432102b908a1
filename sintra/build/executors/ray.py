"""Run workers as tasks of a Ray cluster (extra `ray`): for machines without a scheduler.

The cache folder must be shared with them.

A node says what it is by a custom resource (`ray start --address=... --resources='{"jetson_nano":
1}'`); with executor.measure=jetson_nano, steps that measure go there, one at a time.
https://docs.ray.io/en/latest/ray-core/scheduling/resources.html
"""

from __future__ import annotations

import os
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

from sintra.build.remote_worker import RemoteJob, run_order
from sintra.build.worker_process import ResourceRequest, WorkerExit
from sintra.config.options import ExecutorConf
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Resource

USUAL = ("CPU", "GPU", "memory", "object_store_memory")  # resources that every Ray has


class RayJob(RemoteJob):
    """A task of Ray; what counts is the exit that it writes."""

    def __init__(self, ray: Any, ref: Any, order: Path, poll_s: float) -> None:
        super().__init__(order, poll_s)
        self.ray, self.ref = ray, ref

    def scheduler_exit(self) -> WorkerExit | None:
        """Return what Ray says of a task that is over; None while it may run."""
        if not self.ray.wait([self.ref], timeout=0)[0]:
            return None
        try:
            self.ray.get(self.ref)
        except self.ray.exceptions.OutOfMemoryError as error:
            return WorkerExit("memory", 0, _first(error))
        except self.ray.exceptions.TaskCancelledError:
            return WorkerExit("cancelled", 0, "Ray says cancelled")
        except self.ray.exceptions.RayError as error:
            return WorkerExit("lost", 0, f"Ray says {_first(error)}")
        return WorkerExit("exit", 0, "Ray says finished")

    def stop(self) -> None:
        """Tell Ray to end the task."""
        self.ray.cancel(self.ref, force=True)


class Ray:
    """executor=ray.

    Without executor.address it is a Ray of this process, on this machine.
    """

    here = False

    def __init__(self, options: ExecutorConf, root: Path) -> None:
        self.options = options
        self.retries, self.mem_gb = options.retries, options.mem_gb
        self.ray = connect(options.address, options.resources)
        self.task = self.ray.remote(run_order)
        self.lock = threading.Lock()
        # Resources that were there: a step waits for a board to come back, not for a misspelt one.
        self.seen: set[str] = set()

    def threads(self, resource: Resource) -> int:
        """Return a step's threads; a speed is measured on all cores."""
        return {"light": 1, "alone": 0}.get(resource, int(self.options.cpus))

    def task_options(self, request: ResourceRequest) -> dict[str, Any]:
        """Return Ray's options for a step. Raises UserError where no node has what it needs."""
        custom = {self.options.measure: 1} if request.measures and self.options.measure else {}
        there = self.ray.cluster_resources()
        for name in custom:
            if not there.get(name) and name not in self.seen:
                others = sorted(k for k in there if ":" not in k and k not in USUAL)
                raise UserError(
                    f"executor.measure={name}: no node of this Ray has that resource (known are: "
                    f"{', '.join(others) or 'none'}); a node has it by `ray start --resources`"
                )
        self.seen |= custom.keys()
        gpus = self.options.gpus if request.resource != "light" else 0
        memory = {"memory": int(request.mem_gb * 2**30)} if request.mem_gb else {}
        return {
            "num_cpus": request.threads or 1,
            "num_gpus": gpus,
            "resources": custom,
            "max_retries": 0,
            "name": request.name,
        } | memory

    def submit(self, order: Path, request: ResourceRequest) -> RayJob:
        """Start a worker on an order's file. Raises UserError, Transient.

        What was lost is tried again by Sintra, not by Ray, so that all executors do it alike.
        """
        try:
            with self.lock:
                ref = self.task.options(**self.task_options(request)).remote(str(order))
        except self.ray.exceptions.RayError as error:
            raise Transient(f"Ray took no task: {_first(error)}") from None
        return RayJob(self.ray, ref, order, self.options.poll_s)

    def more(self, request: ResourceRequest) -> ResourceRequest | None:
        """Return the same with twice the memory, up to executor.max_mem_gb."""
        most = self.options.max_mem_gb
        if request.mem_gb is None or most is None or request.mem_gb >= most:
            return None
        return replace(request, mem_gb=min(most, 2 * request.mem_gb))


def connect(address: str | None, resources: dict[str, float]) -> Any:
    """Return the module ray, connected.

    Raises UserError where the extra is missing, Transient where there is no cluster.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise UserError(
            "executor=ray needs Ray: pip install -c constraints.txt -e '.[ray]'"
        ) from None
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    own: dict[str, Any] = (
        {}
        if address
        else {
            "include_dashboard": False,
            "resources": dict(resources) or None,
            "_node_ip_address": "127.0.0.1",
        }
    )
    try:
        if not ray.is_initialized():
            ray.init(
                address=address or "local", log_to_driver=False, configure_logging=False, **own
            )
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        raise Transient(f"no Ray at {address}: {_first(error)}") from None
    finally:
        if main:  # Ray puts its own there
            signal.signal(signal.SIGTERM, before)
    return ray


def _first(error: Exception) -> str:
    return next((x.strip() for x in str(error).splitlines() if x.strip()), type(error).__name__)
