"""`doit thermal`: what heat does to a device's speed over time, simulated."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

from sintra.cli.commands.devices import shapes
from sintra.config.study import hardware_of
from sintra.core.errors import UserError
from sintra.hardware.estimate import thermal
from sintra.hardware.estimate.estimate import decode_seconds
from sintra.study.workspace import composed


def read_log(path: Path) -> list[tuple[float, float, float]]:
    """The rows of a CSV with columns seconds, celsius, watts. Raises UserError."""
    try:
        with path.open(newline="") as handle:
            return [
                (float(r["seconds"]), float(r["celsius"]), float(r["watts"]))
                for r in csv.DictReader(handle)
            ]
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(
            f"{path} can't be read as CSV with columns seconds, celsius, watts: {error}"
        ) from None


def show(
    root: Path,
    raw: list[str],
    minutes: float,
    kind: str,
    cooled: bool,
    log: str,
    plot: str,
    format: str,
) -> None:
    """Print a run from rest: a row for every half minute, then burst and sustained tokens/s."""
    if not 1 <= minutes <= 1440:
        raise UserError(f"--minutes {minutes:g} is none from 1 to 1440")
    conf = composed(root, raw)
    device, given = hardware_of(conf.hardware), shapes(root, conf)
    if kind not in given and len(given) > 1:
        raise UserError(f"--type {kind} isn't known: use one of {', '.join(given)}")
    shape = given.get(kind) or next(iter(given.values()))
    full = 1 / sum(decode_seconds(shape, device, conf.probe.context))
    p = thermal.checked(device.thermal, device.name, cooled)
    if log:
        p = thermal.calibrate(p, read_log(root / Path(log).expanduser()))
    samples = thermal.simulate(p, minutes * 60)
    found = summary(p, samples, full, minutes)
    if plot:
        draw(root / plot, samples, full, device.title)
    if format == "json":
        print(json.dumps(found | {"samples": [vars(s) for s in samples]}, indent=1))
        return
    print(f"{'minutes':>8}{'chip C':>9}{'case C':>9}{'clock':>8}{'tokens/s':>10}")
    for s in samples[:: max(30, len(samples) // 30 // 30 * 30)]:
        print(f"{s.t / 60:>8.1f}{s.chip:>9.1f}{s.case:>9.1f}{s.clock:>7.0%} {s.speed * full:>9.3g}")
    burst, last = found["burst_tps"], found["sustained_tps"]
    print(
        f"burst {burst:.3g} tokens/s, sustained {last:.3g}; simulated for {device.title}, not "
        "measured"
    )
    if log:
        print(f"fitted to {log}: thermal.r_ca={p['r_ca']:.3g} K/W, thermal.c_c={p['c_c']:.3g} J/K")


def summary(
    p: dict[str, float], samples: list[thermal.Sample], full: float, minutes: float
) -> dict[str, Any]:
    """Burst (the first minute) and sustained (from the tenth minute on, or in equilibrium)
    tokens/s.
    """
    burst = thermal.mean_speed(samples, 0, thermal.BURST_S)
    late = minutes * 60 > thermal.SUSTAINED_S + 60
    last = (
        thermal.mean_speed(samples, thermal.SUSTAINED_S, minutes * 60)
        if late
        else thermal.sustained(p)
    )
    return {
        "how": "simulated",
        "burst_tps": burst * full,
        "sustained_tps": last * full,
        "full_tps": full,
        "parameters": p,
    }


def draw(path: Path, samples: list[thermal.Sample], full: float, title: str) -> None:
    """Temperature, clock and tokens/s over time as a picture."""
    try:
        import matplotlib
    except ImportError:
        raise UserError(
            "--plot needs matplotlib: pip install -c constraints.txt -e '.[bench]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(7, 7))
    times = [s.t / 60 for s in samples]
    axes[0].plot(times, [s.chip for s in samples], label="chip")
    axes[0].plot(times, [s.case for s in samples], label="board or case")
    axes[0].set_ylabel("Celsius")
    axes[0].legend()
    for axis, values, label in (
        (axes[1], [100 * s.clock for s in samples], "clock, %"),
        (axes[2], [full * s.speed for s in samples], "tokens/s"),
    ):
        axis.plot(times, values)
        axis.set_ylabel(label)
        axis.set_ylim(bottom=0)
    axes[0].set_title(f"{title}: simulated")
    axes[2].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(path)
