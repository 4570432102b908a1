"""On which terms steps are run: where, for how long, how politely. Never part of a key."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

from sintra.core.canonical import canonical
from sintra.core.errors import UserError

BEGUN = time.monotonic()


@dataclass(frozen=True)
class Terms:
    """executor: its options as JSON; timeouts: seconds by stage; timeout_s: for every other;
    study_s: for the whole run; heavy: steps that use many cores at once; memory_gb: for those
    together; background: the lowest priority.
    """

    name: str = "local"
    executor: str = "{}"
    timeouts: tuple[tuple[str, float], ...] = ()
    timeout_s: float | None = None
    study_s: float = float("inf")
    heavy: int = 1
    memory_gb: float | None = None
    background: bool = False

    @classmethod
    def of(cls, conf: dict[str, Any]) -> Terms:
        """From a composed configuration. Raises UserError for what can't be meant."""
        limits, executor = conf["limits"], conf["executor"]
        given = {f"limits.timeout.{k}": v for k, v in limits["timeout"].items()}
        given |= {
            "timeout_s": conf["timeout_s"],
            "limits.study_minutes": limits["study_minutes"],
            "limits.memory_gb": limits["memory_gb"],
            "limits.heavy": limits["heavy"],
            "executor.jobs": executor["jobs"],
            "executor.cpus": executor["cpus"],
            "executor.poll_s": executor["poll_s"],
        }
        for option, value in given.items():
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
        """A step's time limit: the stage's option, else its variant's, else timeout_s, else the
        stage's own.
        """
        return dict(self.timeouts).get(stage) or hint or self.timeout_s or own

    @property
    def until(self) -> float:
        """When the run's time is up, on the clock of time.monotonic()."""
        return BEGUN + self.study_s

    @property
    def minutes(self) -> float:
        """What was given as limits.study_minutes."""
        return self.study_s / 60

    @property
    def over(self) -> bool:
        """Whether it is up."""
        return time.monotonic() >= self.until


def measured_on(conf: dict[str, Any]) -> str:
    """What the machines are called that measure speed and memory; "" for this one."""
    executor = conf["executor"]
    if executor["name"] == "local":
        return ""
    return ":".join(
        str(p) for p in (executor["name"], executor["measure"] or executor["partition"]) if p
    )


def side_by_side(raw: list[str], default: int = 16) -> int:
    """How many steps doit starts at once for these overrides: many where others have the machines."""
    given = dict(o.split("=", 1) for o in raw)
    if given.get("executor", "local") == "local":
        return 0
    jobs = given.get("executor.jobs", "")
    return int(jobs) if jobs.isdigit() else default
