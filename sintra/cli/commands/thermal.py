"""Simulate what heat does to a device's speed over time (`doit thermal`)."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TypedDict

from sintra.cli.commands.devices import model_of
from sintra.config.quoting import user_path
from sintra.config.study import hardware_of
from sintra.core.errors import UserError
from sintra.hardware.estimate import thermal
from sintra.hardware.estimate.estimate import decode_seconds
from sintra.study.workspace import composed


class ThermalSummary(TypedDict):
    """A simulated run in numbers."""

    how: str  # simulated
    burst_tps: float  # tokens/s in the first minute
    sustained_tps: float  # tokens/s from the tenth minute on, or in equilibrium
    full_tps: float  # tokens/s at full clock
    parameters: dict[str, float]  # of the thermal model


def read_log(path: Path) -> thermal.Log:
    """Read a CSV with columns seconds, celsius, watts. Raises UserError."""
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
    """Print a run from rest: a row for every half minute, then burst and sustained tokens/s.

    Raises UserError for an unknown type, and where the profile lacks parameters of heat.
    """
    if not 1 <= minutes <= 1440:
        raise UserError(f"--minutes {minutes:g} is none from 1 to 1440")
    conf = composed(root, raw)
    device, described = hardware_of(conf.hardware), model_of(root, conf)
    shapes = described.shapes
    if kind not in shapes and len(shapes) > 1:
        raise UserError(f"--type {kind} isn't known: use one of {', '.join(shapes)}")
    shape = shapes.get(kind) or next(iter(shapes.values()))
    full = 1 / sum(decode_seconds(shape, device, described.context, depth=conf.goal.depth))
    model = thermal.thermal_model(device.thermal, device.name, cooled)
    if log:
        model = thermal.fit_cooling(model, read_log(root / user_path(log)))
    samples = thermal.simulate_run(model, minutes * 60)
    summary = summarize_run(model, samples, full, minutes)
    if plot:
        draw_run(root / plot, samples, full, device.title)
    if format == "json":
        print(json.dumps({**summary, "samples": [vars(s) for s in samples]}, indent=1))
        return
    print(format_run(samples, summary))
    print(
        f"burst {summary['burst_tps']:.3g} tokens/s, sustained {summary['sustained_tps']:.3g}; "
        f"simulated for {device.title}, not measured"
    )
    if log:
        print(
            f"fitted to {log}: thermal.r_ca={model.r_ca:.3g} K/W, thermal.c_c={model.c_c:.3g} J/K"
        )


def format_run(samples: list[thermal.Sample], summary: ThermalSummary) -> str:
    """Return a run as a table: a row for every half minute, about 30 rows for a long run."""
    full = summary["full_tps"]
    lines = [f"{'minutes':>8}{'chip C':>9}{'case C':>9}{'clock':>8}{'tokens/s':>10}"]
    lines += [
        f"{s.t / 60:>8.1f}{s.chip:>9.1f}{s.case:>9.1f}{s.clock:>7.0%} {s.speed * full:>9.3g}"
        for s in samples[:: max(30, len(samples) // 30 // 30 * 30)]
    ]
    return "\n".join(lines)


def summarize_run(
    model: thermal.ThermalModel, samples: list[thermal.Sample], full: float, minutes: float
) -> ThermalSummary:
    """Return burst and sustained speed. full: tokens/s at full clock; minutes: of the run."""
    burst = thermal.mean_speed(samples, 0, thermal.BURST_S)
    late = minutes * 60 > thermal.SUSTAINED_S + 60
    last = (
        thermal.mean_speed(samples, thermal.SUSTAINED_S, minutes * 60)
        if late
        else thermal.sustained_speed(model)
    )
    return {
        "how": "simulated",
        "burst_tps": burst * full,
        "sustained_tps": last * full,
        "full_tps": full,
        "parameters": model.as_parameters(),
    }


def draw_run(path: Path, samples: list[thermal.Sample], full: float, title: str) -> None:
    """Write temperature, clock and tokens/s over time as a picture.

    full: tokens/s at full clock. Raises UserError without matplotlib.
    """
    try:
        import matplotlib  # optional package
    except ImportError:
        raise UserError(
            "--plot needs matplotlib: pip install -c constraints.txt -e '.[bench]'"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot  # optional package

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
