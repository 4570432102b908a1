"""The least damage after 8, 16 and 32 evaluations at three sizes: the solver against random mixes,
Optuna's TPE and importance-weighted squared error.

    python bench/search.py [--model models/fable_mini] [--budgets 8,16,32] \
        [--sizes Q2_K,Q3_K_M,Q4_K_M] [--seeds 5]

All planners share the types, the groups' rules, the rounding and the files. Each one's pick (the
best on the search text) is measured on the report text. The solver and imatrix_mse are
deterministic and run once; random and Optuna run with every seed. A planner's number is the
geometric mean, over sizes and seeds, of its pick's KLD over the best stock preset's of at most the
size. Last line: `budget=N solver=... random=... optuna=... imatrix_mse=...` for each budget.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import studies
from quality_per_byte import MB, mean

from sintra.core.recipe import Recipe

SEEDED = ("random", "optuna")


def pick(cache: Path, raw: list[str], planner: str, limit: int, budget: int, seed: int) -> float:
    """The report text's KLD of a planner's best mix on the search text."""
    more = [
        f"planner={planner}",
        f"planner.evaluations={budget}",
        f"planner.seed={seed}",
        "max_rounds=99",
    ]
    workspace = studies.opened(cache, *raw, *more, f"goal.max_size_mb={limit / MB:.6f}")
    graph = workspace.graph()
    known = studies.run(workspace, graph, say=False, decide=False)
    tried = [p.recipe for r in known for p in r.proposals if p.level == "search"]
    own = {r for r in tried if r.complete and studies.size(graph, workspace.store, r) <= limit}
    best = min(
        sorted(own, key=str), key=lambda r: studies.kld(graph, workspace.store, r, "search").mean()
    )
    return float(studies.kld(graph, workspace.store, best, "report").mean())


def main() -> None:
    """Every budget, every planner."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=studies.ROOT / "models" / "fable_mini")
    parser.add_argument("--texts", type=Path, default=studies.ROOT / "models" / "texts")
    parser.add_argument("--budgets", default="8,16,32")
    parser.add_argument("--sizes", default="Q2_K,Q3_K_M,Q4_K_M")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--planners", default="solver,random,optuna,imatrix_mse")
    parser.add_argument("--cache", type=Path, help="kept between runs; default: a temporary folder")
    options = parser.parse_args()
    lines = []
    with tempfile.TemporaryDirectory() as scratch:
        cache = ((options.cache or Path(scratch)) / options.model.name).resolve()
        cache.mkdir(parents=True, exist_ok=True)
        raw = [
            f"model={options.model.resolve()}",
            "hardware=laptop",
            "goal=quality",
            *studies.texts(options.texts),
        ]
        workspace = studies.opened(cache, *raw)
        graph = workspace.graph()
        presets = {}
        for name in options.sizes.split(","):
            for matrix in (False, True):
                recipe = Recipe(name, importance=matrix)
                presets[recipe] = (
                    studies.size(graph, workspace.store, recipe),
                    float(studies.kld(graph, workspace.store, recipe, "report").mean()),
                )
        for budget in map(int, options.budgets.split(",")):
            scores = {}
            for planner in options.planners.split(","):
                ratios = []
                for name in options.sizes.split(","):
                    limit = presets[Recipe(name)][0]
                    stock = min(kld for size, kld in presets.values() if size <= limit)
                    seeds = range(options.seeds if planner in SEEDED else 1)
                    found = [
                        pick(cache, raw, planner, limit, budget, seed) / stock for seed in seeds
                    ]
                    print(
                        f"  {budget:3} {planner:12} {name:7} {' '.join(f'{x:.3f}' for x in found)}",
                        flush=True,
                    )
                    ratios += [mean(found)]
                scores[planner] = mean(ratios)
            lines.append(f"budget={budget} " + " ".join(f"{k}={v:.3f}" for k, v in scores.items()))
            print(lines[-1], flush=True)
    print("; ".join(lines))


if __name__ == "__main__":
    main()
