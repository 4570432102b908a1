"""KL divergence of compensated files with and without balanced columns, on two texts.

    python bench/balance.py [--model models/fable] [--texts models/texts] [--types Q8_0,IQ4_XS]

Every matrix in one type each time; calibrated on the calibration text of --texts, with --own on
what the model writes itself. Through bench/real.py on a real model. Means with their standard
errors over windows, and the ratio of balanced to unbalanced with its 95 % interval, windows drawn
in pairs. Last line: the geometric mean of the ratios on the report text, `geo_mean=...`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import studies
from quality_per_byte import ratio

from sintra.planning.solver.mixes import MixSettings

LEVELS = ("report", "second")


def main() -> None:
    """A line for each type and each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=studies.ROOT / "models" / "fable")
    parser.add_argument("--texts", type=Path, default=studies.ROOT / "models" / "texts")
    parser.add_argument("--types", default="Q8_0,IQ4_XS")
    parser.add_argument("--own", action="store_true", help="calibrated on text of its own")
    parser.add_argument("--cache", type=Path, help="where results are kept; default: nowhere")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache, ratios = options.cache or Path(scratch), []
        print("type     balanced     MB  text       KLD, nats")
        for kind in options.types.split(","):
            plain, balanced = (measured(options, cache, kind, way) for way in ("never", "always"))
            for level in LEVELS:
                value, low, high = ratio(balanced[level], plain[level])
                print(f"  {level}: {value:.3f} ({low:.3f} to {high:.3f})", flush=True)
                ratios += [value] if level == "report" else []
        print(f"geo_mean={np.exp(np.log(ratios).mean()):.4f}")


def measured(
    options: argparse.Namespace, cache: Path, kind: str, way: str
) -> dict[str, np.ndarray]:
    """Print a line for each text, and return level -> KLD of every position, (windows, positions).

    way: of model.balance.
    """
    workspace = studies.opened(
        cache,
        f"model={options.model.resolve()}",
        "hardware=laptop",
        f"model.balance={way}",
        f"texts.second={(options.texts / 'second').resolve()}.txt",
        *(t for t in studies.texts(options.texts, options.own) if "second" not in t),
    )
    graph, store = workspace.graph(), workspace.store
    recipe = MixSettings.of(workspace.study).uniform_recipe(kind)
    size = studies.size(graph, store, recipe) / 1e6
    found = {level: studies.kld(graph, store, recipe, level) for level in LEVELS}
    for level, values in found.items():
        error = values.mean(1).std(ddof=1) / np.sqrt(len(values))
        words = f"{values.mean():.5f} +- {error:.5f}, {values.size} tokens"
        print(f"{kind:8} {way:8} {size:7.2f}  {level:8} {words}", flush=True)
    return found


if __name__ == "__main__":
    main()
