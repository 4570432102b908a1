"""KL divergence of compensated files with and without balanced columns, on two texts.

    python bench/balance.py [--model models/fable] [--texts models/texts] [--types Q8_0,Q5_1,IQ4_XS]

Every matrix in one type each time; calibrated on the calibration text of --texts, with --own on
what the model writes itself. Through bench/real.py on a real model. Last line: the geometric mean of
balanced over unbalanced on the report text, `geo_mean=...`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import studies

from sintra.planning.solver.mixes import MixSettings

LEVELS = ("report", "second")


def main() -> None:
    """A line for each type and each way."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=studies.ROOT / "models" / "fable")
    parser.add_argument("--texts", type=Path, default=studies.ROOT / "models" / "texts")
    parser.add_argument("--types", default="Q8_0,Q5_1,IQ4_XS")
    parser.add_argument("--own", action="store_true", help="calibrated on text of its own")
    parser.add_argument("--cache", type=Path, help="where results are kept; default: nowhere")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        cache, ratios = options.cache or Path(scratch), []
        print(f"{'type':8}{'balanced':>10}{'MB':>9}{'report':>10}{'second':>10}")
        for kind in options.types.split(","):
            found = [measured(options, cache, kind, way) for way in ("never", "always")]
            ratios.append(found[1] / found[0])
        print(f"geo_mean={np.exp(np.log(ratios).mean()):.4f}")


def measured(options: argparse.Namespace, cache: Path, kind: str, way: str) -> float:
    """Print a line, and return the mean KLD on the report text. way: of model.balance."""
    texts = [t for t in studies.texts(options.texts, options.own) if "second" not in t]
    workspace = studies.opened(
        cache,
        f"model={options.model.resolve()}",
        "hardware=laptop",
        f"model.balance={way}",
        f"texts.second={(options.texts / 'second').resolve()}.txt",
        *texts,
    )
    graph, store = workspace.graph(), workspace.store
    recipe = MixSettings.of(workspace.study).uniform_recipe(kind)
    size = studies.size(graph, store, recipe) / 1e6
    values = [float(studies.kld(graph, store, recipe, level).mean()) for level in LEVELS]
    print(f"{kind:8}{way:>10}{size:9.2f}{values[0]:10.5f}{values[1]:10.5f}", flush=True)
    return values[0]


if __name__ == "__main__":
    main()
