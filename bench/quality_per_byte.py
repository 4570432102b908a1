"""Our KL divergence over that of the best stock preset of at most the same bytes, on the report
text, at seven sizes.

    python bench/quality_per_byte.py [--model models/fable,models/fable_mini] \
        [--texts models/texts] [--sizes Q2_K,Q4_K_M]

At the byte size of each preset (importance matrix allowed to presets, the better of with and
without counts) the default planner is asked for the least damage; its winner on the report text is
compared, window by window (95 % interval of the ratio, bootstrapped). vs_mse: against
planner=imatrix_mse at equal bytes, with the same rounding. --plot writes a picture of KLD against
bytes. Last line: `geo_mean=... worst=... vs_mse=...`.
"""

from __future__ import annotations

import argparse
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import studies

from sintra.build.graph import Graph
from sintra.core.judge import ranked
from sintra.core.recipe import Recipe, variant_name
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace

SIZES = ("Q2_K", "Q3_K_S", "Q3_K_M", "IQ4_XS", "Q4_K_S", "Q4_K_M", "Q5_K_M")
MB = 10**6


def ratio(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float, float]:
    """The ratio of the means and its 95 % interval, windows drawn in pairs."""
    draws = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    a, b = ours.mean(1), theirs.mean(1)
    spread = np.quantile(a[draws].mean(1) / b[draws].mean(1), [0.025, 0.975])
    return float(a.mean() / b.mean()), float(spread[0]), float(spread[1])


class Bench:
    """One model's studies in one cache."""

    def __init__(
        self, model: Path, texts: Path, cache: Path, extra: list[str], own: bool = False
    ) -> None:
        self.raw = [
            f"model={model.resolve()}",
            "hardware=laptop",
            "goal=quality",
            *studies.texts(texts, own),
            *extra,
        ]
        self.cache = cache
        self.workspace = studies.opened(cache, *self.raw)
        self.graph = self.workspace.graph()
        self.coverage: list[bool] = []
        self.evaluations: list[int] = []

    def presets(self, names: list[str]) -> dict[Recipe, tuple[int, np.ndarray]]:
        """Stock presets with and without importance matrix: bytes and divergence."""
        found = {}
        for name in names:
            for matrix in (False, True):
                recipe = Recipe(name, importance=matrix)
                found[recipe] = (
                    studies.size(self.graph, self.workspace.store, recipe),
                    studies.kld(self.graph, self.workspace.store, recipe, "report"),
                )
        return found

    def best(self, planner: str, limit: int) -> tuple[Recipe, int, np.ndarray]:
        """A planner's winner of at most `limit` bytes."""
        workspace = studies.opened(
            self.cache, *self.raw, f"planner={planner}", f"goal.max_size_mb={limit / MB:.6f}"
        )
        graph: Graph = workspace.graph()
        known = studies.run(workspace, graph)
        found = studies.candidates(workspace, graph, known)
        self.evaluations.append(len({c.recipe for c in found}))
        self.covered(workspace, graph, known)
        winner = next(c for c in ranked(found, workspace.study.goal) if c.decided)
        return (
            winner.recipe,
            studies.size(graph, workspace.store, winner.recipe),
            studies.kld(graph, workspace.store, winner.recipe, "report"),
        )

    def covered(self, workspace: Workspace, graph: Graph, known: list[Round]) -> None:
        """Whether predicted intervals held the measured values."""
        for proposal in (p for r in known for p in r.proposals):
            if "kld_mean_low" in proposal.predicted and proposal.level == "search":
                value = studies.kld(graph, workspace.store, proposal.recipe, "search").mean()
                self.coverage.append(
                    proposal.predicted["kld_mean_low"]
                    <= value
                    <= proposal.predicted["kld_mean_high"]
                )


def compare(bench: Bench, names: list[str], planners: list[str]) -> list[dict]:
    """A row for each size."""
    presets = bench.presets(names)
    rows = []
    for name in names:
        limit = presets[Recipe(name)][0]
        stock = min((p for p in presets.items() if p[1][0] <= limit), key=lambda p: p[1][1].mean())
        row = {
            "size": name,
            "bytes": limit,
            "stock": variant_name(stock[0]),
            "stock_kld": float(stock[1][1].mean()),
        }
        for planner in planners:
            start = time.perf_counter()
            recipe, size, found = bench.best(planner, limit)
            assert size <= limit, (recipe, size, limit)
            value, low, high = ratio(found, stock[1][1])
            row[planner] = {
                "recipe": variant_name(recipe),
                "bytes": size,
                "kld": float(found.mean()),
                "ratio": value,
                "low": low,
                "high": high,
                "seconds": round(time.perf_counter() - start, 1),
                "evaluations": bench.evaluations[-1],
            }
            print(
                f"  {name:7} {limit / MB:7.3f} MB  "
                f"{variant_name(stock[0]):15} {stock[1][1].mean():.6f}   "
                f"{planner:12} {size / MB:7.3f} MB {found.mean():.6f}  {value:.3f} x ({low:.3f} "
                f"to {high:.3f})  {bench.evaluations[-1]} evaluations, {row[planner]['seconds']} "
                "s",
                flush=True,
            )
        rows.append(row)
    return rows


def mean(values: list[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def plot(results: dict[str, list[dict]], target: Path) -> None:
    """KLD against bytes, a panel for each model."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(results), figsize=(6 * len(results), 4.5), squeeze=False)
    for axis, (model, rows) in zip(axes[0], results.items(), strict=True):
        size = [r["bytes"] / MB for r in rows]
        axis.plot(
            size, [r["stock_kld"] for r in rows], "o-", label="best stock preset", color="0.5"
        )
        for planner in (k for k, v in rows[0].items() if isinstance(v, dict)):
            axis.plot(
                [r[planner]["bytes"] / MB for r in rows],
                [r[planner]["kld"] for r in rows],
                "o-",
                label=planner,
            )
        axis.set(yscale="log", xlabel="MB", ylabel="mean KLD (nats), report text", title=model)
        axis.legend()
    figure.tight_layout()
    figure.savefig(target)


def main() -> None:
    """All models, all sizes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/fable,models/fable_mini")
    parser.add_argument("--texts", type=Path, default=studies.ROOT / "models" / "texts")
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--planners", default="solver,imatrix_mse", help="the first is ours")
    parser.add_argument("--cache", type=Path, help="kept between runs; default: a temporary folder")
    parser.add_argument("--own", action="store_true", help="calibrate and rank on own text")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("overrides", nargs="*", help="key=value, as on the command line")
    options = parser.parse_args()
    ours, *others = options.planners.split(",")
    results, covered, most = {}, [], 0
    with tempfile.TemporaryDirectory() as scratch:
        for model in map(Path, options.model.split(",")):
            print(model.name, flush=True)
            cache = (options.cache or Path(scratch)) / model.name
            cache.mkdir(parents=True, exist_ok=True)
            bench = Bench(model, options.texts, cache.resolve(), options.overrides, options.own)
            results[model.name] = compare(bench, options.sizes.split(","), [ours, *others])
            covered += bench.coverage
            most = max(most, *bench.evaluations)
            print(
                (
                    f"  {model.name}: geometric mean "
                    f"{mean([r[ours]['ratio'] for r in results[model.name]]):.3f}"
                ),
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))
    if options.plot:
        plot(results, options.plot)
    rows = [r for found in results.values() for r in found]
    if covered:
        print(
            f"coverage of the 90 % intervals: {sum(covered)} of {len(covered)}; at most {most} "
            "evaluations a study"
        )
    against = mean([r[ours]["kld"] / r[others[0]]["kld"] for r in rows]) if others else None
    print(
        f"geo_mean={mean([r[ours]['ratio'] for r in rows]):.3f} "
        f"worst={max(r[ours]['ratio'] for r in rows):.3f} "
        f"vs_mse={'none' if against is None else f'{against:.3f}'}"
    )


if __name__ == "__main__":
    main()
