"""Correct estimates by what a board has shown of other variants.

Only finalists are measured on a board. The median difference of measured and estimated memory and
the median ratio of the speeds correct every other estimate and what the planner goes by; a variant
that needs no less memory than one that ran out of it is out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sintra.config.study import Study
from sintra.core.artifact import Failure
from sintra.core.types import Candidate, Measurement

RAM, SPEED = "device_ram_bytes", "device_tg_tps"
# End of the name under which an estimate is kept beside what was measured.
ESTIMATED = "_estimated"


@dataclass(frozen=True)
class BoardCorrection:
    """Hold how a board differs from its estimates."""

    ram_bytes: float = 0.0  # measured less estimated
    speed_ratio: float = 1.0  # measured over estimated tokens/s
    # Name and estimated bytes of the smallest variant that ran out of memory.
    smallest_failure: tuple[str, float] | None = None


def add_board_measurements(numbers: dict[str, Measurement], rows: Iterable[Measurement]) -> None:
    """Put a board's measurements in the place of the estimates in `numbers` (by metric).

    The estimates are kept under a name of their own.
    """
    for row in rows:
        old = numbers.get(row.metric)
        if old and old.how == "estimated" and row.how == "measured":
            numbers[row.metric + ESTIMATED] = replace(old, metric=row.metric + ESTIMATED)
        numbers[row.metric] = row


def learn_correction(candidates: list[Candidate]) -> BoardCorrection | None:
    """Return how the board differs from its estimates, or None where it has shown nothing yet."""
    pairs = {m: [(c.find(m), c.find(m + ESTIMATED)) for c in candidates] for m in (RAM, SPEED)}
    ram = [a.value - b.value for a, b in pairs[RAM] if a and b]
    speed = [math.log(a.value / b.value) for a, b in pairs[SPEED] if a and b]
    failures = [
        (c.label, value) for c in candidates if ran_out_of_memory(c) and (value := c.value(RAM))
    ]
    if not (ram or speed or failures):
        return None
    import statistics  # not on the no-op path

    return BoardCorrection(
        statistics.median(ram or [0.0]),
        math.exp(statistics.median(speed or [0.0])),
        min(failures, key=lambda pair: pair[1], default=None),
    )


def ran_out_of_memory(candidate: Candidate) -> bool:
    """Return whether a variant that could be built ran out of memory when it was run."""
    return bool(
        candidate.artifact and candidate.failure and candidate.failure.kind == "out_of_memory"
    )


def correct_candidates(candidates: list[Candidate]) -> list[Candidate]:
    """Return the candidates; those not measured on the board are corrected by those that were."""
    correction = learn_correction(candidates)
    if correction is None:
        return candidates
    return [_correct_candidate(c, correction) for c in candidates]


def _correct_candidate(candidate: Candidate, correction: BoardCorrection) -> Candidate:
    """Return a candidate with corrected estimates, or as a failure where it can't fit."""
    ram, measured = candidate.value(RAM), candidate.find(RAM + ESTIMATED)
    if candidate.failure or candidate.recipe.format != "gguf" or ram is None:
        return candidate
    failure = correction.smallest_failure
    if failure and not measured and ram >= failure[1]:
        why = f"not run on the board: {failure[0]}, which needs no more memory, doesn't fit it"
        return replace(candidate, failure=Failure("out_of_memory", why))
    rows = tuple(_correct_measurement(m, correction) for m in candidate.measurements)
    return replace(candidate, measurements=rows)


def _correct_measurement(row: Measurement, correction: BoardCorrection) -> Measurement:
    """Return an estimate of memory or speed corrected, and any other measurement as it is."""
    if row.how != "estimated" or row.metric not in (RAM, SPEED):
        return row
    factor, more = 1.0, correction.ram_bytes
    if row.metric == SPEED:
        factor, more = correction.speed_ratio, 0.0
    low, high = (None if v is None else v * factor + more for v in (row.low, row.high))
    protocol = f"{row.protocol}, corrected by what the board showed of other variants"
    return replace(row, value=row.value * factor + more, low=low, high=high, protocol=protocol)


def correct_study(study: Study, candidates: list[Candidate]) -> Study:
    """Return the study as its planner is to see it.

    Its device is as fast, and has as much room, as the board has shown.
    """
    correction = learn_correction(candidates) if study.board else None
    if correction is None or study.board is None:
        return study
    device, failure = study.hardware, correction.smallest_failure
    hardware = replace(
        device,
        efficiency=device.efficiency * correction.speed_ratio,
        runtime_bytes=int(device.runtime_bytes + correction.ram_bytes),
        overhead_s_per_layer=device.overhead_s_per_layer / correction.speed_ratio,
    )
    # as an estimate of the corrected device would be
    full = failure[1] + correction.ram_bytes if failure else None
    return replace(study, hardware=hardware, board=replace(study.board, full=full))


def board_lines(order: list[Candidate]) -> Iterator[str]:
    """Yield what was measured on the board, a line for each variant."""
    for candidate in order:
        speed, ram = candidate.find(SPEED), candidate.find(RAM)
        if ram is None or ram.how != "measured":
            continue
        facts = [f"{ram.value / 1e6:.0f} MB ({_format_estimate(candidate, RAM, 1e6)} estimated)"]
        if speed and speed.how == "measured":
            estimate = _format_estimate(candidate, SPEED, 1)
            facts.insert(0, f"{speed.value:.3g} tokens/s ({estimate} estimated)")
        facts += _format_conditions(candidate)
        yield f"measured on {ram.where}: {candidate.label}, {', '.join(facts)}"


def _format_estimate(candidate: Candidate, metric: str, scale: float) -> str:
    """Return the estimate that a measurement replaced, in units of `scale`."""
    value = candidate.value(metric + ESTIMATED)
    return "nothing" if value is None else f"{value / scale:.3g}"


def _format_conditions(candidate: Candidate) -> list[str]:
    """Return heat, throttling and swapping, where there was some."""
    celsius, swapped = candidate.value("device_celsius"), candidate.value("device_swapped_bytes")
    words = [f"{celsius:.0f} C"] if celsius is not None else []
    words += ["THROTTLED"] if candidate.value("device_throttled") else []
    return words + ([f"SWAPPED {swapped / 1e6:.0f} MB"] if swapped else [])
