"""What a board has shown of some variants, for those that weren't on it: estimates moved, limits
that are tighter than thought.

A board is asked about finalists only. The median difference of measured and estimated memory and
the median ratio of the speeds correct every other estimate and what the planner goes by; what needs
no less than a variant that ran out of memory is out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from sintra.config.study import Study
from sintra.core.recipe import variant_name
from sintra.core.types import Candidate, Failure, Measurement

RAM, SPEED = "device_ram_bytes", "device_tg_tps"
ESTIMATED = (
    "_estimated"  # the end of the name under which an estimate is kept beside what was measured
)


@dataclass(frozen=True)
class Lesson:
    """ram: bytes measured above the estimate; speed: tokens/s measured over the estimate; full: the
    least memory estimated of a variant that didn't fit (name, bytes).
    """

    ram: float = 0.0
    speed: float = 1.0
    full: tuple[str, float] | None = None


def replaced(numbers: dict[str, Measurement], rows: Iterable[Measurement]) -> None:
    """Put a board's measurements in the place of the estimates, which are kept under a name of
    their own.
    """
    for row in rows:
        old = numbers.get(row.metric)
        if old and old.how == "estimated" and row.how == "measured":
            numbers[row.metric + ESTIMATED] = replace(old, metric=row.metric + ESTIMATED)
        numbers[row.metric] = row


def lesson(known: list[Candidate]) -> Lesson | None:
    """What the board has shown so far, or None."""
    pairs = {m: [(c.find(m), c.find(m + ESTIMATED)) for c in known] for m in (RAM, SPEED)}
    ram = [a.value - b.value for a, b in pairs[RAM] if a and b]
    speed = [math.log(a.value / b.value) for a, b in pairs[SPEED] if a and b]
    full = [
        (variant_name(c.recipe), value) for c in known if overfull(c) and (value := c.value(RAM))
    ]
    if not (ram or speed or full):
        return None
    import statistics  # not on the no-op path

    return Lesson(
        statistics.median(ram or [0.0]),
        math.exp(statistics.median(speed or [0.0])),
        min(full, key=lambda pair: pair[1], default=None),
    )


def overfull(candidate: Candidate) -> bool:
    """Whether a variant that could be built ran out of memory when it was run."""
    return bool(
        candidate.artifact and candidate.failure and candidate.failure.kind == "out_of_memory"
    )


def corrected(known: list[Candidate]) -> list[Candidate]:
    """The same candidates, those that weren't on the board corrected by those that were."""
    found = lesson(known)
    return known if found is None else [_corrected(c, found) for c in known]


def _corrected(candidate: Candidate, found: Lesson) -> Candidate:
    needs, measured = candidate.value(RAM), candidate.find(RAM + ESTIMATED)
    if candidate.failure or candidate.recipe.format != "gguf" or needs is None:
        return candidate
    if found.full and not measured and needs >= found.full[1]:
        why = f"not run on the board: {found.full[0]}, which needs no more memory, doesn't fit it"
        return replace(candidate, failure=Failure("out_of_memory", why))
    return replace(candidate, measurements=tuple(_moved(m, found) for m in candidate.measurements))


def _moved(row: Measurement, found: Lesson) -> Measurement:
    """An estimate after what the board showed of others."""
    if row.how != "estimated" or row.metric not in (RAM, SPEED):
        return row
    factor, more = (found.speed, 0.0) if row.metric == SPEED else (1.0, found.ram)
    low, high = (None if v is None else v * factor + more for v in (row.low, row.high))
    words = f"{row.protocol}, corrected by what the board showed of other variants"
    return replace(row, value=row.value * factor + more, low=low, high=high, protocol=words)


def informed(study: Study, known: list[Candidate]) -> Study:
    """The study as its planner is to see it: a device as fast, and with as much room, as the board
    was found to have.
    """
    found = lesson(known) if study.board else None
    if found is None:
        return study
    device = study.hardware
    real = replace(
        device,
        efficiency=device.efficiency * found.speed,
        runtime_bytes=int(device.runtime_bytes + found.ram),
        overhead_s_per_layer=device.overhead_s_per_layer / found.speed,
    )
    full = (
        found.full[1] + found.ram if found.full else None
    )  # as an estimate of this device would be
    board = replace(study.board, full=full) if study.board else None
    return replace(study, hardware=real, board=board)


def board_of(study: Study) -> dict[str, Any]:
    """The board as it stands in result.json; nothing without one."""
    return {"board": study.board.identity} if study.board else {}


def lines(order: list[Candidate]) -> Iterator[str]:
    """What was measured on the board, a line for each variant."""
    for candidate in order:
        speed, ram = candidate.find(SPEED), candidate.find(RAM)
        if ram is None or ram.how != "measured":
            continue
        said = [f"{ram.value / 1e6:.0f} MB ({_before(candidate, RAM, 1e6)} estimated)"]
        if speed and speed.how == "measured":
            said.insert(0, f"{speed.value:.3g} tokens/s ({_before(candidate, SPEED, 1)} estimated)")
        yield (
            f"measured on {ram.where}: {variant_name(candidate.recipe)}, "
            f"{', '.join(said + conditions(candidate))}"
        )


def _before(candidate: Candidate, metric: str, scale: float) -> str:
    value = candidate.value(metric + ESTIMATED)
    return "nothing" if value is None else f"{value / scale:.3g}"


def conditions(candidate: Candidate) -> list[str]:
    """Heat, throttling and swapping, where there is something to say."""
    celsius, swapped = candidate.value("device_celsius"), candidate.value("device_swapped_bytes")
    found = [f"{celsius:.0f} C"] if celsius is not None else []
    found += ["THROTTLED"] if candidate.value("device_throttled") else []
    return found + ([f"SWAPPED {swapped / 1e6:.0f} MB"] if swapped else [])
