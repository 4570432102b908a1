"""The range of every number among the options, and a device's numbers against each other.

A number outside of its range is a mistake, most often of the unit. Bounds are generous: no device
and no study of today is near them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from sintra.config.options import HardwareConf

LARGE = 1e6  # from here on, the end of a range is only told to who is beyond it
TOKENS = 2**26  # more than any text or context that is measured here
Units = tuple[tuple[float, str], ...]
"""(factor, name) of units that are mistaken for the right one: 1024 of "MiB" are a GiB."""
MEMORY: Units = ((2**10, "MiB"), (2**20, "KiB"), (2**30, "bytes"), (2**-10, "TiB"))
SPEED: Units = ((1e3, "MB/s"), (1e6, "kB/s"), (1e9, "bytes/s"), (1e-3, "TB/s"))
STORAGE: Units = ((1e-3, "GB/s"), (1e6, "bytes/s"), (1e3, "kB/s"))
COMPUTE: Units = ((1e3, "GFLOP/s"), (1e12, "FLOP/s"), (1e6, "MFLOP/s"))
PERCENT: Units = ((100, "percent"),)
CPU_GBS, CPU_TFLOPS = 4000.0, 50.0  # more than any CPU's memory (or its caches) and matrix units
SERVER_GB, LONGEST_READ_S = 512.0, 30.0  # no memory so large takes so long to be read once


@dataclass(frozen=True)
class Range:
    """The finite numbers that an option takes."""

    low: float
    high: float
    unit: str = ""
    above: bool = False  # whether low itself is left out
    mistaken: Units = ()  # units that people write instead
    noun: str = "number"

    def __contains__(self, value: float) -> bool:
        over = value > self.low if self.above else value >= self.low
        return math.isfinite(value) and over and value <= self.high

    def words(self, value: float) -> str:
        """Return what a number outside isn't: the range, without an end that nobody is near."""
        noun = self.noun if math.isfinite(value) else f"finite {self.noun}"
        unit = f" ({self.unit})" if self.unit else ""
        ends = self.high < LARGE or value > self.high
        if self.above:
            low, high = f"above {self.low:.10g}", f", up to {self.high:.10g}"
        else:
            low, high = f"from {self.low:.10g}", f" to {self.high:.10g}"
        return f"a {noun} {low}{high if ends else '' if self.above else ' up'}{unit}"

    def interval(self) -> str:
        """Return the range in words, without an end that nobody is near."""
        low = f"above {self.low:.10g}" if self.above else f"{self.low:.10g}"
        if self.high >= LARGE:
            return low if self.above else f"{low} and up"
        return f"{low} to {self.high:.10g}"

    def hint(self, value: float) -> str:
        """Return what was probably meant by a number outside, as the end of a line; else ""."""
        if not math.isfinite(value):
            return ""
        for factor, unit in self.mistaken:
            if (meant := value / factor) in self:
                return f"; {value:.10g} {unit} would be {meant:.6g}"
        return ""


def above(low: float, high: float, unit: str = "", mistaken: Units = ()) -> Range:
    """Return the numbers above a bound, which itself isn't one of them."""
    return Range(low, high, unit, True, mistaken)


def share(high: float = 1, whole: str = "", low: float = 0, above: bool = False) -> Range:
    """Return the shares of a whole, which people write in percent."""
    return Range(low, high, "", above, PERCENT, f"share of {whole}" if whole else "share")


SHARE, SPREAD = share(), share(5)
COUNT = Range(1, 1e6)
SEED = Range(0, 2**31 - 1)
SECONDS = above(0, 1e9, "seconds")
GIB = above(0, 1e6, "GiB", MEMORY)
DEVICE_GIB = Range(0.01, 6144, "GiB", mistaken=MEMORY)
DEVICE_GBS = Range(0.1, 10_000, "GB/s", mistaken=SPEED)
CELSIUS = Range(-50, 200, "degrees Celsius")
WATTS = Range(0, 10_000, "watts")

RANGES: dict[str, Range] = {
    "hardware.cores": Range(1, 4096),
    "hardware.ram_gb": DEVICE_GIB,
    "hardware.usable_gb": above(0, 6144, "GiB", MEMORY),
    "hardware.bandwidth_gbs": DEVICE_GBS,
    # above 1 where the bandwidth is a measured one that caches beat
    "hardware.efficiency": share(1.5, "the bandwidth", above=True),
    "hardware.efficiency_spread": SPREAD,
    "hardware.overhead_us_per_layer": Range(0, 1e5, "microseconds", mistaken=((1e3, "ns"),)),
    "hardware.tflops": above(0, 20_000, "TFLOP/s", COMPUTE),
    "hardware.overhead_spread": SPREAD,
    "hardware.bytes_per_weight": Range(0, 16, "bytes"),
    "hardware.k_quant": share(10, low=-1),
    "hardware.tflops_spread": SPREAD,
    "hardware.attention": Range(0, 100),
    "hardware.attention_tflops": above(0, 20_000, "TFLOP/s", COMPUTE),
    "hardware.storage_mbs": Range(4, 200_000, "MB/s", mistaken=STORAGE),
    "hardware.host_usable_gb": Range(0, 6144, "GiB", mistaken=MEMORY),
    "hardware.host_bandwidth_gbs": Range(0, 10_000, "GB/s", mistaken=SPEED),
    "hardware.type_costs.*": above(0, 1000),
    "hardware.runtime_mib": Range(0, 2**17, "MiB", mistaken=((2**10, "KiB"), (2**20, "bytes"))),
    "hardware.runtime_spread_mib": Range(
        0, 2**17, "MiB", mistaken=((2**10, "KiB"), (2**20, "bytes"))
    ),
    "hardware.thermal.ambient_c": CELSIUS,
    "hardware.thermal.idle_w": WATTS,
    "hardware.thermal.full_w": WATTS,
    "hardware.thermal.r_jc": above(0, 1000, "K/W"),
    "hardware.thermal.r_ca": above(0, 1000, "K/W"),
    "hardware.thermal.c_j": above(0, 1e6, "J/K"),
    "hardware.thermal.c_c": above(0, 1e6, "J/K"),
    "hardware.thermal.v": SHARE,
    "hardware.thermal.floor": share(above=True),
    "hardware.thermal.clock_share": SHARE,
    "hardware.thermal.skin_band": above(0, 100, "degrees"),
    "hardware.thermal.throttle_c": CELSIUS,
    "hardware.thermal.hard_c": CELSIUS,
    "hardware.thermal.skin_c": CELSIUS,
    "hardware.thermal.r_ca_cooled": above(0, 1000, "K/W"),
    "hardware.thermal.c_c_cooled": above(0, 1e6, "J/K"),
    "hardware.thermal.start_c": CELSIUS,
    "goal.max_kld": Range(0, 1e6, "nats"),
    "goal.max_kld_p999": Range(0, 1e6, "nats"),
    "goal.max_ppl_ratio": above(0, 1e6),
    "goal.min_same_top": SHARE,
    "goal.min_task_retention": share(1, "the baseline's score", above=True),
    "goal.max_size_mb": above(0, 1e9, "MB"),
    "goal.max_ram_gb": GIB,
    "goal.min_tg_tps": Range(0, 1e9, "tokens per second"),
    "goal.min_pp_tps": Range(0, 1e9, "tokens per second"),
    "goal.min_tg_tps_sustained": Range(0, 1e9, "tokens per second"),
    "goal.depth": Range(0, TOKENS, "tokens"),
    "goal.context": Range(8, TOKENS, "tokens"),
    "planner.evaluations": COUNT,
    "planner.seed": SEED,
    "planner.batch": COUNT,
    "planner.max_dropped": Range(0, 10_000, "blocks"),
    "planner.timeout_s": SECONDS,
    "planner.max_calls": Range(0, 1e9),
    "planner.max_tokens": Range(0, 1e12, "tokens"),
    "planner.max_usd": Range(0, 1e9, "US dollars"),
    "planner.max_reply_tokens": Range(1, TOKENS, "tokens"),
    "planner.price_input": Range(0, 1e6, "US dollars per million tokens"),
    "planner.price_output": Range(0, 1e6, "US dollars per million tokens"),
    "probe.context": Range(8, TOKENS, "tokens"),
    "probe.calibration_tokens": Range(1, TOKENS, "tokens"),
    "probe.calibration_random": share(0.9),
    "probe.refine_tokens": Range(0, TOKENS, "tokens"),
    "probe.refine_steps": Range(0, 1e6),
    "probe.polish_tokens": Range(1, TOKENS, "tokens"),
    "probe.polish_epochs": above(0, 10_000),
    "probe.search_tokens": Range(1, TOKENS, "tokens"),
    "probe.report_tokens": Range(1, TOKENS, "tokens"),
    "probe.second_tokens": Range(1, TOKENS, "tokens"),
    "probe.top_k": Range(1, 2**20),
    "probe.depth": Range(0, TOKENS, "tokens"),
    "probe.speed_prompt": Range(1, TOKENS, "tokens"),
    "probe.speed_generate": Range(1, TOKENS, "tokens"),
    "probe.speed_repeat": Range(1, 10_000),
    "probe.task_context": Range(8, TOKENS, "tokens"),
    "device.port": Range(1, 65535),
    "device.threads": Range(1, 4096),
    "device.gpu_layers": Range(-1, 100_000),
    "device.timeout_s": SECONDS,
    "texts.temperature": above(0, 100),
    "texts.chat": SHARE,
    "compress.bits": Range(1, 16),
    "compress.group_size": Range(1, 65536),
    "compress.timeout_s": SECONDS,
    "compress.max_ram_gb": GIB,
    "executor.retries": Range(0, 1000),
    "executor.jobs": COUNT,
    "executor.cpus": COUNT,
    "executor.mem_gb": GIB,
    "executor.max_mem_gb": GIB,
    "executor.gpus": Range(0, 10_000),
    "executor.minutes": Range(1, 1e7, "minutes"),
    "executor.resources.*": Range(0, 1e9),
    "executor.poll_s": above(0, 1e6, "seconds"),
    "limits.timeout.*": SECONDS,
    "limits.study_minutes": above(0, 1e7, "minutes"),
    "limits.deliver_s": Range(0, 1e9, "seconds"),
    "limits.heavy": COUNT,
    "limits.memory_gb": GIB,
    "notify.timeout_s": SECONDS,
    "notify.retries": Range(0, 1000),
    "seed": SEED,
    "max_rounds": Range(1, 1e6),
    "timeout_s": SECONDS,
}
THERMAL = frozenset(
    key.removeprefix("hardware.thermal.") for key in RANGES if key.startswith("hardware.thermal.")
)


def count_of(text: str) -> int | None:
    """Return the whole number from 1 to 10^12 that a text is; None for any other text."""
    plain = text if text.isascii() and text.isdigit() and len(text) <= 12 else "0"
    return int(plain) or None


def range_of(key: str) -> Range | None:
    """Return the range of an option's numbers; None where it has no number."""
    return RANGES.get(key) or RANGES.get(f"{key.rpartition('.')[0]}.*")


def numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Yield (dotted key, number) of composed options and of their lists, truth values left out."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            yield from numbers(value, f"{key}.")
        elif isinstance(value, list | tuple):
            yield from ((key, v) for v in value if isinstance(v, int | float))
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield key, value


def range_faults(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, what is wrong) of every number of composed options out of its range."""
    for key, value in numbers(values):
        allowed = range_of(key)
        if allowed is not None and value not in allowed:
            yield key, f"isn't {allowed.words(value)}{allowed.hint(value)}"


def device_faults(device: HardwareConf) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, what is wrong) where a device's numbers contradict each other."""
    if device.usable_gb > device.ram_gb:
        ram = f"hardware.ram_gb, {device.ram_gb:g} GiB"
        yield "hardware.usable_gb", f"is more than all of the memory ({ram})"
    if device.backend == "cpu" and device.bandwidth_gbs > CPU_GBS:
        meant = f"{device.bandwidth_gbs:g} MB/s would be {device.bandwidth_gbs / 1e3:g}"
        yield "hardware.bandwidth_gbs", f"is more GB/s than a CPU's memory has; {meant}"
    if device.backend == "cpu" and (device.tflops or 0) > CPU_TFLOPS:
        tflops = device.tflops or 0
        meant = f"{tflops:g} GFLOP/s would be {tflops / 1e3:g}"
        yield "hardware.tflops", f"is more TFLOP/s than a CPU has; {meant}"
    read_s = device.ram_gb * 2**30 / (device.bandwidth_gbs * 1e9)
    if device.ram_gb >= SERVER_GB and read_s > LONGEST_READ_S:
        meant = f"{device.ram_gb:g} MiB would be {device.ram_gb / 2**10:g}"
        speed = f"hardware.bandwidth_gbs, {device.bandwidth_gbs:g} GB/s"
        yield "hardware.ram_gb", f"is too many GiB for so slow a memory ({speed}); {meant}"
