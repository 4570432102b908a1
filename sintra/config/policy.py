"""Say how steps are run: where, for how long, how politely. Never part of a key."""

from __future__ import annotations

from dataclasses import dataclass, field

from sintra.config.options import Config, ExecutorConf

JOBS = 16  # steps that doit starts at once where others have the machines


@dataclass(frozen=True)
class RunPolicy:
    """Where and within what limits steps are run."""

    executor: ExecutorConf = field(default_factory=ExecutorConf)
    timeouts: tuple[tuple[str, float], ...] = ()  # (stage, seconds)
    timeout_s: float | None = None  # for every other stage
    study_s: float = float("inf")  # for the whole run, seconds
    heavy: int = 1  # steps that use many cores, at once
    memory_gb: float | None = None  # for those together, GiB
    background: bool = False  # whether workers run at the lowest priority

    @classmethod
    def of(cls, config: Config) -> RunPolicy:
        """Return the policy that the options ask for."""
        limits = config.limits
        minutes = limits.study_minutes
        return cls(
            config.executor,
            tuple((stage, float(v)) for stage, v in limits.timeout.items() if v is not None),
            config.timeout_s,
            minutes * 60 if minutes else float("inf"),
            limits.heavy,
            limits.memory_gb,
            limits.background,
        )

    def seconds(self, stage: str, hint: float | None, own: float) -> float:
        """Return a step's time limit, in seconds.

        It is the stage's option, else the variant's (hint), else timeout_s, else the stage's own.
        """
        return dict(self.timeouts).get(stage) or hint or self.timeout_s or own

    @property
    def minutes(self) -> float:
        """Return limits.study_minutes as it was set."""
        return self.study_s / 60


def measured_on(executor: ExecutorConf) -> str:
    """Return what the machines are called that measure speed and memory; "" for this one."""
    if executor.name == "local":
        return ""
    parts = (executor.name, executor.measure or executor.partition)
    return ":".join(str(part) for part in parts if part)


def side_by_side(raw: list[str], default: int = JOBS) -> int:
    """Return how many steps doit starts at once for these overrides, 0 for doit's own default."""
    values = dict(override.split("=", 1) for override in raw)
    if values.get("executor", "local") == "local":
        return 0
    jobs = values.get("executor.jobs", "")
    return int(jobs) if jobs.isdigit() else default
