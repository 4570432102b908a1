"""Estimated against measured on this machine: tokens/s and peak memory of two models in six types,
after `doit calibrate`.

    python bench/local_check.py [--work DIR] [--layers 18] [--ram] [--types Q8_0,Q6_K,...]

models/fable and a Llama of random weights (width 1024, 18 blocks: 304 M parameters) are converted,
quantized and measured by the study's own steps (stages quantize, probes speed and memory; kept in
DIR/cache, so that a second run measures nothing). A speed whose best repetition is 7 % above the
median is measured again, eight times at most. Then this machine is detected, calibrated by what the
cache holds, and every variant estimated from its layout alone. `without it`: from a calibration by
the other rows only. Last line: worst relative errors: `ram=... tps=... tps_without=...`.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rounding_cost import ROOT, random_model

from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.cli.commands import devices
from sintra.config.options import HardwareConf
from sintra.config.study import hardware_of
from sintra.core.recipe import Recipe
from sintra.core.stage import machine
from sintra.core.types import Measurement
from sintra.hardware.estimate.calibrate import MeasuredSpeed, refine_memory, refine_profile
from sintra.hardware.estimate.estimate import Shape, compute_bytes, estimate_metrics, kv_bytes
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.store.store import Store
from sintra.study.workspace import composed, open_workspace

TYPES = "Q8_0,Q6_K,Q5_K_M,Q4_K_M,Q3_K_M,Q2_K"
TRIES, DISTURBED = 8, 0.07
NOTHING = Measurement("tg_tps", math.nan, "tokens/s", "measured", high=math.nan)
Row = dict[str, Any]


def measured(model: Path, types: list[str], cache: Path, speeds: bool) -> list[Row]:
    """A row for each type: its shape, and what was measured of it here."""
    sizes = ["probe.speed_generate=64", "probe.speed_prompt=64", "probe.speed_repeat=15"]
    workspace = open_workspace(ROOT, [f"model={model}", f"store.path={cache}", *sizes])
    graph, store, found = workspace.graph(), workspace.store, []
    for kind in types:
        variant = graph.variant(Recipe(kind), "report")
        assert variant.speed
        assert variant.memory
        for step in (*(variant.speed.all() if speeds else variant.memory.all()), variant.memory):
            run_step(step, store)
        speed = calm(variant.speed, store) if speeds else NOTHING
        layout = store.read_json(variant.quantize.outcome(store), "layout.json")
        ram = numbers(variant.memory, store)["ram_peak_bytes"].value
        found.append(
            {
                "model": model.name,
                "type": kind,
                "shape": Shape.of(layout),
                "context": workspace.study.context,
                "tg_tps": speed.value,
                "ram_peak_bytes": ram,
            }
        )
        said = f"{speed.value:.1f} tokens/s (best {speed.high:.1f}), " if speeds else ""
        print(f"{model.name} {kind}: {said}{ram / 1e6:.1f} MB", flush=True)
    return found


def numbers(step: Step, store: Store) -> dict[str, Measurement]:
    """A probe's measurements by metric."""
    return {
        m.metric: m
        for m in parse_measurements(store.read_json(step.outcome(store), MEASUREMENTS_FILE))
    }


def calm(step: Step, store: Store) -> Measurement:
    """Tokens/s, measured anew where something else disturbed it: where the median of the
    repetitions is far from the best.
    """
    for _ in range(TRIES):
        found = numbers(step, store)["tg_tps"]
        if found.high / found.value < 1 + DISTURBED:
            break
        step.forget(store)
        run_step(step, store)
    return numbers(step, store)["tg_tps"]


def profile_of(work: Path) -> HardwareConf:
    """This machine as detected, before it is calibrated."""
    path = work / "machine.yaml"
    if not path.exists():
        with contextlib.redirect_stdout(io.StringIO()):
            devices.detect(ROOT, [], str(path), False, "text")
    return composed(ROOT, [f"hardware={path}", f"store.path={work / 'cache'}"]).hardware


def estimated(profile: HardwareConf, row: Row) -> tuple[float, float]:
    """Tokens/s over the tokens that were generated, and memory at the context, by a profile."""
    device = hardware_of(profile)
    speed = next(
        m.value for m in estimate_metrics(row["shape"], device, 64) if m.metric == "device_tg_tps"
    )
    ram = next(
        m.value
        for m in estimate_metrics(row["shape"], device, row["context"])
        if m.metric == "device_ram_bytes"
    )
    return speed, ram


def main() -> None:
    """Measure, calibrate, compare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--types", default=TYPES)
    parser.add_argument(
        "--ram", action="store_true", help="memory only: for a machine too busy to measure speeds"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = (options.work or Path(name)).resolve()
        work.mkdir(exist_ok=True)
        large = work / f"llama-{options.layers}"
        if not large.exists():
            random_model(large, options.layers)
        types = options.types.split(",")
        rows = [
            r
            for model in (ROOT / "models" / "fable", large)
            for r in measured(model, types, work / "cache", not options.ram)
        ]
        if options.ram:
            memory(rows, profile_of(work))
        else:
            compare(rows, profile_of(work), devices.measured_here(work / "cache"))


def memory(rows: list[Row], before: HardwareConf) -> None:
    """The same for memory alone."""
    beside = [
        (
            r["ram_peak_bytes"]
            - r["shape"].weight_bytes
            - kv_bytes(r["shape"], r["context"])
            - compute_bytes(r["shape"], r["context"])
        )
        / 2**20
        for r in rows
    ]
    after = refine_memory(before, beside)
    print(f"\n{machine()}; runtime {after.runtime_mib} +-{after.runtime_spread_mib} MiB")
    print(
        "| model | type | file, MB | peak RAM, MB | uncalibrated | calibrated |\n| --- | --- | "
        "--- | --- | --- | --- |"
    )
    worst = 0.0
    for row in rows:
        first, ram, true = (
            estimated(before, row)[1],
            estimated(after, row)[1],
            row["ram_peak_bytes"],
        )
        worst = max(worst, abs(ram / true - 1))
        size = f"{row['shape'].weight_bytes / 1e6:.1f}"
        print(
            f"| {row['model']} | {row['type']} | {size} | {true / 1e6:.1f} | {first / 1e6:.1f} | "
            f"{ram / 1e6:.1f} ({ram / true - 1:+.1%}) |"
        )
    print(f"ram={worst:.3f}")


def compare(rows: list[Row], before: HardwareConf, own: list[MeasuredSpeed]) -> None:
    """Print the table and the worst errors. own: the rows that `doit calibrate` takes, one for each
    of ours.
    """
    after = refine_profile(before, own)
    print(f"\n{machine()}; detected: {before.bandwidth_gbs} GB/s")
    print(
        "| model | type | file, MB | tokens/s | detected | calibrated | without it | peak RAM, MB "
        "| estimated |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    worst = {"ram": 0.0, "tps": 0.0, "tps_without": 0.0}
    for row in rows:
        speed, ram = estimated(after, row)
        others = [r for r in own if r.tps != row["tg_tps"]]
        alone = estimated(refine_profile(before, others), row)[0]
        errors = {
            "ram": ram / row["ram_peak_bytes"] - 1,
            "tps": speed / row["tg_tps"] - 1,
            "tps_without": alone / row["tg_tps"] - 1,
        }
        worst = {k: max(worst[k], abs(errors[k])) for k in worst}
        first = estimated(before, row)[0]
        print(
            f"| {row['model']} | {row['type']} | {row['shape'].weight_bytes / 1e6:.1f} | "
            f"{row['tg_tps']:.1f} | {first:.1f} | {speed:.1f} ({errors['tps']:+.0%}) | "
            f"{alone:.1f} ({errors['tps_without']:+.0%}) | {row['ram_peak_bytes'] / 1e6:.1f} | "
            f"{ram / 1e6:.1f} ({errors['ram']:+.1%}) |"
        )
    print(" ".join(f"{k}={v:.3f}" for k, v in worst.items()))


if __name__ == "__main__":
    main()
