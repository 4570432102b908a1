"""Heat, simulated: two thermal nodes and the device's governor. Nothing here is measured; the
metric says `simulated`.

    C_j dT_j/dt = P - (T_j - T_c)/R_jc          C_c dT_c/dt = (T_j - T_c)/R_jc - (T_c - T_a)/R_ca
    P = idle + (full - idle) u f V(f)^2,        V(f) = v + (1 - v) f

j: the chip, c: board, cooler or case; f: clock over its maximum, u: load. Decode: time a token = (1
- s) + s/f of what it is at full clock, since memory isn't throttled; s is `clock_share`. Governors:
linear from throttle_c to hard_c on the chip's temperature (Raspberry Pi: raspberrypi/documentation,
frequency management); in steps at throttle_c where hard_c isn't given (Jetson, as L4T's); with
skin_c, linear from skin_c over skin_band on the case's (phones and fanless laptops).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable
from dataclasses import dataclass

from sintra.core.errors import UserError

NEEDED = ("ambient_c", "idle_w", "full_w", "r_jc", "r_ca", "c_j", "c_c")
DEFAULTS = {"v": 0.7, "floor": 0.25, "clock_share": 0.5, "skin_band": 6.0}
STEP, HYSTERESIS, NOTCH = 0.25, 2.0, 0.05
BURST_S, SUSTAINED_S = 60.0, 600.0
KEYS = frozenset(
    (*NEEDED, *DEFAULTS, "throttle_c", "hard_c", "skin_c", "r_ca_cooled", "c_c_cooled", "start_c")
)


@dataclass(frozen=True)
class Sample:
    """A moment: seconds, Celsius of chip and case, clock over its maximum, speed over that at full
    clock.
    """

    t: float
    chip: float
    case: float
    clock: float
    speed: float


def complete(thermal: dict[str, float]) -> bool:
    """Whether a profile says enough to simulate."""
    return all(k in thermal for k in NEEDED) and bool({"throttle_c", "skin_c"} & set(thermal))


def checked(thermal: dict[str, float], name: str, cooled: bool = False) -> dict[str, float]:
    """The parameters with defaults, with the cooler where asked. Raises UserError where too little
    is known.
    """
    missing = [k for k in NEEDED if k not in thermal]
    if missing or not complete(thermal):
        raise UserError(
            f"the profile {name} says too little of heat: thermal lacks "
            f"{', '.join(missing) or 'throttle_c or skin_c'}"
        )
    if cooled and "r_ca_cooled" not in thermal:
        raise UserError(f"the profile {name} knows of no cooler (thermal.r_ca_cooled)")
    given = DEFAULTS | thermal
    if cooled:
        given |= {"r_ca": thermal["r_ca_cooled"], "c_c": thermal.get("c_c_cooled", thermal["c_c"])}
    return given


def power(p: dict[str, float], clock: float, load: float = 1.0) -> float:
    """Watts at a clock (share of the maximum) and a load from 0 to 1."""
    return (
        p["idle_w"]
        + (p["full_w"] - p["idle_w"]) * load * clock * (p["v"] + (1 - p["v"]) * clock) ** 2
    )


def speed(p: dict[str, float], clock: float) -> float:
    """Decode speed over that at full clock."""
    return 1 / (1 - p["clock_share"] + p["clock_share"] / clock)


def ramp(p: dict[str, float], chip: float, case: float) -> float:
    """The clock that a linear governor allows at these temperatures."""
    if "skin_c" in p:
        start, width, now = p["skin_c"], p["skin_band"], case
    else:
        start, width, now = p["throttle_c"], p["hard_c"] - p["throttle_c"], chip
    return min(1.0, max(p["floor"], 1 - (1 - p["floor"]) * (now - start) / width))


def govern(p: dict[str, float], clock: float, chip: float, case: float) -> float:
    """The clock for the next second."""
    if "skin_c" in p or "hard_c" in p:
        return ramp(p, chip, case)
    if chip >= p["throttle_c"]:
        return max(p["floor"], clock - NOTCH)
    return min(1.0, clock + NOTCH) if chip < p["throttle_c"] - HYSTERESIS else clock


def rest(p: dict[str, float]) -> tuple[float, float]:
    """Chip and case after a long idle, or as warm as start_c says that a run finds them."""
    case = p.get("start_c", p["ambient_c"] + p["idle_w"] * p["r_ca"])
    return case + p["idle_w"] * p["r_jc"], case


def simulate(
    p: dict[str, float], seconds: float, loads: Iterable[tuple[float, float]] = ()
) -> list[Sample]:
    """A run from rest, a sample a second. loads: (seconds, load) one after the other, full load
    after the last.
    """
    plan = [load for span, load in loads for _ in range(round(span / STEP))]
    chip, case = rest(p)
    clock, found = 1.0, []
    for step in range(round(seconds / STEP)):
        if step % round(1 / STEP) == 0:
            clock = govern(p, clock, chip, case)
            found.append(Sample(step * STEP, chip, case, clock, speed(p, clock)))
        watts = power(p, clock, plan[step] if step < len(plan) else 1.0)
        flow = (chip - case) / p["r_jc"]
        chip += STEP * (watts - flow) / p["c_j"]
        case += STEP * (flow - (case - p["ambient_c"]) / p["r_ca"]) / p["c_c"]
    return found


def mean_speed(samples: list[Sample], start: float, end: float) -> float:
    """Mean of the relative speed between two times: tokens over seconds."""
    inside = [s.speed for s in samples if start <= s.t < end]
    return sum(inside) / len(inside)


def sustained(p: dict[str, float]) -> float:
    """Relative speed where heat in and out are equal: what a run of many minutes comes to.
    Bisection on the clock.
    """
    low, high = p["floor"], 1.0

    def excess(clock: float) -> float:
        watts = power(p, clock)
        case = p["ambient_c"] + watts * p["r_ca"]
        chip = case + watts * p["r_jc"]
        if "skin_c" in p or "hard_c" in p:
            return clock - ramp(p, chip, case)
        return chip - p["throttle_c"]

    if excess(1.0) <= 0:
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if excess(middle) > 0 else (middle, high)
    return speed(p, low)


def calibrate(p: dict[str, float], log: list[tuple[float, float, float]]) -> dict[str, float]:
    """The parameters with R_ca and C_c (K/W, J/K) fitted to a logged run: (seconds, chip in
    Celsius, watts).

    Least squares on the chip's temperature, the logged power put in; the case starts so that the
    first reading fits. Raises UserError for a log too short to tell.
    """
    from scipy.optimize import least_squares

    if len(log) < 10 or max(row[1] for row in log) - log[0][1] < 5:
        raise UserError(
            "the log is too short or too cool: wanted are at least 10 rows in which the chip "
            "warms by 5 C or more"
        )

    def off(logs: list[float]) -> list[float]:
        trial = p | {"r_ca": math.exp(logs[0]), "c_c": math.exp(logs[1])}
        return [a - row[1] for a, row in zip(replay(trial, log), log, strict=True)]

    found = least_squares(off, [math.log(p["r_ca"]), math.log(p["c_c"])])
    return p | {"r_ca": math.exp(found.x[0]), "c_c": math.exp(found.x[1])}


def replay(p: dict[str, float], log: list[tuple[float, float, float]]) -> list[float]:
    """The chip's temperature at the log's times under its power."""
    chip = log[0][1]
    case = chip - p["r_jc"] * log[0][2]
    found = [chip]
    for (start, _, watts), (end, _, _) in itertools.pairwise(log):
        steps = max(1, round((end - start) / STEP))
        for _ in range(steps):
            flow = (chip - case) / p["r_jc"]
            chip += (end - start) / steps * (watts - flow) / p["c_j"]
            case += (end - start) / steps * (flow - (case - p["ambient_c"]) / p["r_ca"]) / p["c_c"]
        found.append(chip)
    return found
