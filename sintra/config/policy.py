"""The run policy: where steps run, for how long, at which priority. Never part of a key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sintra.core.canonical import canonical
from sintra.core.errors import UserError


@dataclass(frozen=True)
class RunPolicy:
    """How the steps of a study are run."""

    name: str = "local"  # the executor
    executor: str = "{}"  # the executor's options, as canonical JSON
    timeouts: tuple[tuple[str, float], ...] = ()  # (stage, time limit of one step in s)
    timeout_s: float | None = None  # time limit of a step of any other stage, s
    study_s: float = float("inf")  # time limit of the whole run, s
    heavy: int = 1  # how many steps may use many cores at the same time
    memory_gb: float | None = None  # memory of those steps together, GiB; None: what is free
    background: bool = False  # whether workers have the lowest priority

    @classmethod
    def of(cls, conf: dict[str, Any]) -> RunPolicy:
        """Read the policy from a composed configuration. Raises UserError for a limit that is none."""
        limits, executor = conf["limits"], conf["executor"]
        positive = {f"limits.timeout.{k}": v for k, v in limits["timeout"].items()}
        positive |= {
            "timeout_s": conf["timeout_s"],
            "limits.study_minutes": limits["study_minutes"],
            "limits.memory_gb": limits["memory_gb"],
            "limits.heavy": limits["heavy"],
            "executor.jobs": executor["jobs"],
            "executor.cpus": executor["cpus"],
            "executor.poll_s": executor["poll_s"],
        }
        for option, value in positive.items():
            if value is not None and not value > 0:
                raise UserError(f"{option}={value:g}: give a number above 0, or null for none")
        if executor["retries"] < 0:
            raise UserError(f"executor.retries={executor['retries']}: give 0 or more")
        times = tuple((k, float(v)) for k, v in limits["timeout"].items() if v is not None)
        minutes = limits["study_minutes"]
        return cls(
            executor["name"],
            canonical(executor),
            times,
            conf["timeout_s"],
            minutes * 60 if minutes else float("inf"),
            limits["heavy"],
            limits["memory_gb"],
            limits["background"],
        )

    def seconds(self, stage: str, hint: float | None, own: float) -> float:
        """Return a step's time limit in s: the stage's option, else the hint of its variant, else
        timeout_s, else the stage's own.
        """
        return dict(self.timeouts).get(stage) or hint or self.timeout_s or own

    @property
    def minutes(self) -> float:
        """The time limit of the whole run in minutes, as in limits.study_minutes."""
        return self.study_s / 60


def measured_on(conf: dict[str, Any]) -> str:
    """Return what the machines are called that measure speed and memory; "" for this one."""
    executor = conf["executor"]
    if executor["name"] == "local":
        return ""
    return ":".join(
        str(p) for p in (executor["name"], executor["measure"] or executor["partition"]) if p
    )


def side_by_side(raw: list[str], default: int = 16) -> int:
    """Return how many steps doit may start at once where an executor has other machines; 0 for this
    machine, where the engine decides.
    """
    options = dict(o.split("=", 1) for o in raw)
    if options.get("executor", "local") == "local":
        return 0
    jobs = options.get("executor.jobs", "")
    return int(jobs) if jobs.isdigit() else default
