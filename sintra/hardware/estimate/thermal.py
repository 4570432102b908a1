"""Simulate heat with two thermal nodes and the device's governor.

Nothing here is measured; the metric says `simulated`.

    C_j dT_j/dt = P - (T_j - T_c)/R_jc          C_c dT_c/dt = (T_j - T_c)/R_jc - (T_c - T_a)/R_ca
    P = idle + (full - idle) u f V(f)^2,        V(f) = v + (1 - v) f

j: the chip, c: board, cooler or case; f: clock over its maximum, u: load. Decode: time per token =
(1 - s) + s/f of what it is at full clock, since memory isn't throttled; s is `clock_share`.
Governors: linear from throttle_c to hard_c on the chip's temperature (Raspberry Pi:
raspberrypi/documentation, frequency management); in steps at throttle_c where hard_c isn't given
(Jetson, as L4T's); with skin_c, linear from skin_c over skin_band on the case's (phones and fanless
laptops).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace

from sintra.core.errors import UserError

NEEDED = ("ambient_c", "idle_w", "full_w", "r_jc", "r_ca", "c_j", "c_c")
STEP_S = 0.25  # of the simulation, seconds
HYSTERESIS = 2.0  # degrees below throttle_c at which a stepping governor raises the clock again
NOTCH = 0.05  # a stepping governor's step, share of the maximum clock
BURST_S, SUSTAINED_S = 60.0, 600.0  # end of the burst, start of what counts as sustained, seconds

Log = list[tuple[float, float, float]]  # a logged run: (seconds, chip in Celsius, watts)


@dataclass(frozen=True)
class ThermalModel:
    """Hold the parameters of a device's heat, as `thermal` of a profile names them."""

    ambient_c: float  # air, Celsius
    idle_w: float  # power at rest, watts
    full_w: float  # power at full load and full clock, watts
    r_jc: float  # thermal resistance from chip to case, K/W
    r_ca: float  # thermal resistance from case to air, K/W
    c_j: float  # heat capacity of the chip, J/K
    c_c: float  # heat capacity of board, cooler or case, J/K
    v: float = 0.7  # voltage at the lowest clock, share of that at the highest
    floor: float = 0.25  # lowest clock, share of the maximum
    clock_share: float = 0.5  # share of decoding's time that goes with the clock
    skin_band: float = 6.0  # width of the linear governor on the case, degrees
    throttle_c: float | None = None  # chip at which the clock begins to fall, Celsius
    hard_c: float | None = None  # chip at which the clock is lowest, Celsius
    skin_c: float | None = None  # case at which the clock begins to fall, Celsius
    r_ca_cooled: float | None = None  # r_ca with the cooler, K/W
    c_c_cooled: float | None = None  # c_c with the cooler, J/K
    start_c: float | None = None  # case at the start of a run, Celsius; None: after a long idle

    @staticmethod
    def of(parameters: Mapping[str, float]) -> ThermalModel:
        """Return the model of a profile's parameters, which must be complete."""
        return ThermalModel(**{name: parameters[name] for name in KEYS & set(parameters)})

    def as_parameters(self) -> dict[str, float]:
        """Return the parameters that are set, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


KEYS = frozenset(field.name for field in fields(ThermalModel))


@dataclass(frozen=True)
class Sample:
    """Hold one moment of a simulated run."""

    t: float  # since its start, seconds
    chip: float  # Celsius
    case: float  # Celsius
    clock: float  # over the maximum, 0 to 1
    speed: float  # of decoding, over that at full clock


def is_complete(parameters: Mapping[str, float]) -> bool:
    """Return whether a profile's `thermal` has all that a simulation needs."""
    return all(k in parameters for k in NEEDED) and bool({"throttle_c", "skin_c"} & set(parameters))


def thermal_model(parameters: Mapping[str, float], name: str, cooled: bool = False) -> ThermalModel:
    """Return the thermal model of the profile `name`, with its cooler where `cooled`.

    Raises UserError where a parameter is missing.
    """
    missing = [k for k in NEEDED if k not in parameters]
    if missing or not is_complete(parameters):
        raise UserError(
            f"the heat of the profile {name} can't be simulated: thermal lacks "
            f"{', '.join(missing) or 'throttle_c or skin_c'}"
        )
    model = ThermalModel.of(parameters)
    if not cooled:
        return model
    if model.r_ca_cooled is None:
        raise UserError(f"the profile {name} has no cooler (thermal.r_ca_cooled)")
    capacity = model.c_c if model.c_c_cooled is None else model.c_c_cooled
    return replace(model, r_ca=model.r_ca_cooled, c_c=capacity)


def power(model: ThermalModel, clock: float, load: float = 1.0) -> float:
    """Return the watts at a clock (share of the maximum) and a load from 0 to 1."""
    return (
        model.idle_w
        + (model.full_w - model.idle_w) * load * clock * (model.v + (1 - model.v) * clock) ** 2
    )


def relative_speed(model: ThermalModel, clock: float) -> float:
    """Return the decode speed at a clock (share of the maximum) over that at full clock."""
    return 1 / (1 - model.clock_share + model.clock_share / clock)


def ramp_clock(model: ThermalModel, chip: float, case: float) -> float:
    """Return the clock that a linear governor allows at these temperatures in Celsius."""
    if model.skin_c is not None:
        start, width, now = model.skin_c, model.skin_band, case
    else:
        assert model.throttle_c is not None
        assert model.hard_c is not None
        start, width, now = model.throttle_c, model.hard_c - model.throttle_c, chip
    return min(1.0, max(model.floor, 1 - (1 - model.floor) * (now - start) / width))


def next_clock(model: ThermalModel, clock: float, chip: float, case: float) -> float:
    """Return the governor's clock for the next second; temperatures in Celsius."""
    if model.skin_c is not None or model.hard_c is not None:
        return ramp_clock(model, chip, case)
    assert model.throttle_c is not None
    if chip >= model.throttle_c:
        return max(model.floor, clock - NOTCH)
    return min(1.0, clock + NOTCH) if chip < model.throttle_c - HYSTERESIS else clock


def start_temperatures(model: ThermalModel) -> tuple[float, float]:
    """Return chip and case in Celsius at the start of a run.

    They are those after a long idle, or as warm as start_c says.
    """
    idle = model.ambient_c + model.idle_w * model.r_ca
    case = idle if model.start_c is None else model.start_c
    return case + model.idle_w * model.r_jc, case


def simulate_run(
    model: ThermalModel, seconds: float, loads: Iterable[tuple[float, float]] = ()
) -> list[Sample]:
    """Return a run from its start temperatures, a sample per second.

    loads: (seconds, load from 0 to 1) one after the other; full load after the last.
    """
    plan = [load for span, load in loads for _ in range(round(span / STEP_S))]
    chip, case = start_temperatures(model)
    clock, samples = 1.0, []
    for step in range(round(seconds / STEP_S)):
        if step % round(1 / STEP_S) == 0:
            clock = next_clock(model, clock, chip, case)
            speed = relative_speed(model, clock)
            samples.append(Sample(step * STEP_S, chip, case, clock, speed))
        watts = power(model, clock, plan[step] if step < len(plan) else 1.0)
        chip, case = _next_temperatures(model, chip, case, watts, STEP_S)
    return samples


def _next_temperatures(
    model: ThermalModel, chip: float, case: float, watts: float, seconds: float
) -> tuple[float, float]:
    """Return chip and case in Celsius after one step of Euler's method."""
    flow = (chip - case) / model.r_jc  # watts
    return (
        chip + seconds * (watts - flow) / model.c_j,
        case + seconds * (flow - (case - model.ambient_c) / model.r_ca) / model.c_c,
    )


def mean_speed(samples: list[Sample], start: float, end: float) -> float:
    """Return the mean relative speed between two times in seconds: tokens over seconds."""
    speeds = [s.speed for s in samples if start <= s.t < end]
    return sum(speeds) / len(speeds)


def sustained_speed(model: ThermalModel) -> float:
    """Return the relative speed where heat in and out are equal, as after many minutes.

    Bisection on the clock.
    """
    low, high = model.floor, 1.0
    if _clock_excess(model, 1.0) <= 0:
        return 1.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if _clock_excess(model, middle) > 0 else (middle, high)
    return relative_speed(model, low)


def _clock_excess(model: ThermalModel, clock: float) -> float:
    """Return a number above 0 where a clock is more than the governor allows in equilibrium."""
    watts = power(model, clock)
    case = model.ambient_c + watts * model.r_ca
    chip = case + watts * model.r_jc
    if model.skin_c is not None or model.hard_c is not None:
        return clock - ramp_clock(model, chip, case)
    assert model.throttle_c is not None
    return chip - model.throttle_c


def fit_cooling(model: ThermalModel, log: Log) -> ThermalModel:
    """Return the model with R_ca (K/W) and C_c (J/K) fitted to a logged run.

    Least squares on the chip's temperature, the logged power put in; the case starts so that the
    first reading fits. Raises UserError for a log that is too short.
    """
    from scipy.optimize import least_squares  # not on the no-op path

    if len(log) < 10 or max(row[1] for row in log) - log[0][1] < 5:
        raise UserError(
            "the log is too short or too cool: wanted are at least 10 rows in which the chip "
            "warms by 5 C or more"
        )

    def with_cooling(logarithms: list[float]) -> ThermalModel:
        return replace(model, r_ca=math.exp(logarithms[0]), c_c=math.exp(logarithms[1]))

    def errors(logarithms: list[float]) -> list[float]:
        chips = replay_log(with_cooling(logarithms), log)
        return [chip - row[1] for chip, row in zip(chips, log, strict=True)]

    optimum = least_squares(errors, [math.log(model.r_ca), math.log(model.c_c)])
    return with_cooling(optimum.x)


def replay_log(model: ThermalModel, log: Log) -> list[float]:
    """Return the chip's temperatures in Celsius at the log's times under its power."""
    chip = log[0][1]
    case = chip - model.r_jc * log[0][2]
    chips = [chip]
    for (start, _, watts), (end, _, _) in itertools.pairwise(log):
        steps = max(1, round((end - start) / STEP_S))
        for _ in range(steps):
            chip, case = _next_temperatures(model, chip, case, watts, (end - start) / steps)
        chips.append(chip)
    return chips
