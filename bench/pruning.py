"""Leaving k blocks out: ours against the first k, the last k, and the median of random choices.

    python bench/pruning.py [--models models/fable,models/fable_mini] [--most 3] [--random 10]

Every set of blocks is cut out of the 16-bit GGUF by llama.cpp and measured on the report text (KL
divergence to the whole model); nothing is quantized. Ours are chosen as the solver chooses them: by
block influence on the calibration text, then dropped and measured again on the search text. Last
line: `worst=...`, the largest ratio of ours to the best of the three others.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from pathlib import Path

import studies

from sintra.core.recipe import Recipe
from sintra.planning.solver.pruning import BlockSet, extended_block_sets
from sintra.study.planner_state import influence


def main() -> None:
    """Every model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="models/fable,models/fable_mini")
    parser.add_argument("--texts", type=Path, default=studies.ROOT / "models" / "texts")
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--random", type=int, default=10)
    parser.add_argument("--cache", type=Path, help="kept between runs; default: a temporary folder")
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = (options.cache or Path(scratch)).resolve()
        for name in options.models.split(","):
            raw = [
                f"model={(studies.ROOT / name).resolve()}",
                "hardware=laptop",
                "goal=quality",
                *studies.texts(options.texts),
            ]
            workspace = studies.opened(cache, *raw)
            graph = workspace.graph()
            studies.build(list(graph.curvature().all()), workspace.store)
            influences = influence(graph, workspace.store)
            print(f"{name}: influence {' '.join(f'{x:.3f}' for x in influences)}")

            def kld(
                drop: BlockSet,
                level: str,
                graph: studies.Graph = graph,
                store: studies.Store = workspace.store,
            ) -> float:
                return float(studies.kld(graph, store, Recipe("F16", drop=drop), level).mean())

            dropped: BlockSet = ()
            for k in range(1, options.most + 1):
                dropped = min(
                    extended_block_sets(dropped, influences, len(influences)),
                    key=lambda d: kld(d, "search"),
                )
                layers = range(len(influences))
                draws = [
                    tuple(sorted(random.Random(seed).sample(layers, k)))
                    for seed in range(options.random)
                ]
                others = {
                    "first": kld(tuple(layers[:k]), "report"),
                    "last": kld(tuple(layers[-k:]), "report"),
                    "random": statistics.median(kld(d, "report") for d in draws),
                }
                ours = kld(dropped, "report")
                ratios.append(ours / min(others.values()))
                row = " ".join(f"{n} {v:.4f}" for n, v in others.items())
                print(
                    f"  k={k}: ours {dropped} {ours:.4f}, {row}, "
                    f"{ratios[-1]:.3f} x the best of them",
                    flush=True,
                )
    print(f"worst={max(ratios):.3f}")


if __name__ == "__main__":
    main()
