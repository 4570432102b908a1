"""Evaluations to a target with and without history: three studies on variants of a model, then a
fourth.

    python bench/learning.py [--model models/fable_mini] [--size Q3_K_M] [--seeds 5] [--steps 40]

A variant is the model trained on for some steps, each on stretches of the calibration text of its
own, so that all of its weights have moved. For each seed the fourth variant is optimised twice
under the same limit on bytes (the size of a stock preset): with an empty history, and with what the
other three left. The target is within 5 % of the least KL divergence on the search text that the
study without history ever measured. Last line: `cold=MEDIAN warm=MEDIAN ratio=MEDIAN end=GEOMEAN`:
evaluations until the target was reached, their ratio, and the warm study's least divergence over
the cold one's.
"""

from __future__ import annotations

import argparse
import math
import shutil
import statistics
import tempfile
from pathlib import Path

import studies

from sintra.build.run_state import Run
from sintra.core.canonical import canonical, sha256
from sintra.core.recipe import Recipe
from sintra.results import result
from sintra.store import history
from sintra.study import candidates

MB = 10**6
NEAR = 1.05


def windows(cache: Path, model: Path, texts: Path) -> "np.ndarray":  # noqa: F821, UP037
    """The calibration text in windows of 256 tokens, by the converted model's own vocabulary."""
    from sintra.formats.runtime.llama_cpp import LlamaModel

    workspace = studies.opened(cache, f"model={model}", "hardware=laptop", *studies.texts(texts))
    step = workspace.graph().convert()
    studies.build(list(step.all()), workspace.store)
    made = step.outcome(workspace.store)
    blob = workspace.store.blob_path(next(f.sha256 for f in made.files if f.path == "model.gguf"))
    vocabulary = LlamaModel(blob, 256, 1, vocab_only=True)
    found = vocabulary.windows((texts / "calibration.txt").read_text(), 256 * 400)
    vocabulary.close()
    return found


def variant(
    model: Path,
    ids: "np.ndarray",  # noqa: F821, UP037
    seed: int,
    steps: int,
    out: Path,
) -> Path:
    """The model after some more training steps (AdamW, 1e-4, 4 windows of 256 tokens each)."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    net = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    rows_of = torch.from_numpy(ids.astype("int64"))
    tuner = torch.optim.AdamW(net.parameters(), lr=1e-4)
    for _ in range(steps):
        rows = rows_of[torch.randint(len(rows_of), (4,))]
        loss = net(input_ids=rows, labels=rows).loss
        loss.backward()
        tuner.step()
        tuner.zero_grad()
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors"))
    net.to(torch.float16).save_pretrained(out, safe_serialization=True)
    print(f"  variant {seed}: loss {float(loss):.3f}", flush=True)
    return out


def study(cache: Path, raw: list[str], learn: bool) -> list[tuple[int, float]]:
    """(evaluations so far, KLD) of every mix within the limit, in order; the result goes into the
    history.
    """
    workspace = studies.opened(cache, *raw, f"planner.learn={str(learn).lower()}", "max_rounds=99")
    graph = workspace.graph()
    known = studies.run(workspace, graph, say=False)
    limit = next(c.limit for c in workspace.study.goal.constraints if c.metric == "size_bytes")
    points = []
    measured = [p.recipe for r in known for p in r.proposals if p.level == "search"]
    for count, recipe in enumerate(measured, 1):
        if recipe.complete and studies.size(graph, workspace.store, recipe) <= limit:
            points.append(
                (count, float(studies.kld(graph, workspace.store, recipe, "search").mean()))
            )
    found = candidates.collect_candidates(graph, workspace.store, known)
    made = result.build_result(workspace, known, found, {}, 0.0, Run().language_model_bill())
    history.append_result(cache / "history.db", made, sha256(canonical(made)))
    return points


def least(points: list[tuple[int, float]]) -> float:
    """The least KLD."""
    return min(kld for _, kld in points)


def main() -> None:
    """All seeds."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=studies.ROOT / "models" / "fable_mini")
    parser.add_argument("--texts", type=Path, default=studies.ROOT / "models" / "texts")
    parser.add_argument("--size", default="Q3_K_M")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--cache", type=Path, help="kept between runs; default: a temporary folder")
    options = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        home = (options.cache or Path(scratch)).resolve()
        cache, common = (
            home / "cache",
            ["hardware=laptop", "goal=quality", *studies.texts(options.texts)],
        )
        cache.mkdir(parents=True, exist_ok=True)
        folders = [home / f"variant-{i}" for i in range(options.seeds + 3)]
        for number, folder in enumerate(folders):
            if not folder.exists():
                variant(
                    options.model,
                    windows(cache, options.model.resolve(), options.texts),
                    number,
                    options.steps,
                    folder,
                )
        workspace = studies.opened(cache, f"model={folders[0]}", *common)
        limit = studies.size(workspace.graph(), workspace.store, Recipe(options.size))
        raw = [*common, f"goal.max_size_mb={limit / MB:.6f}"]
        for seed in range(options.seeds):
            (cache / "history.db").unlink(missing_ok=True)
            cold = study(cache, [f"model={folders[seed]}", *raw], learn=False)
            (cache / "history.db").unlink(missing_ok=True)
            for other in range(1, 4):
                study(cache, [f"model={folders[(seed + other) % len(folders)]}", *raw], learn=False)
            warm = study(cache, [f"model={folders[seed]}", *raw], learn=True)
            target = NEAR * least(cold)
            until = [
                next((n for n, kld in points if kld <= target), math.inf) for points in (cold, warm)
            ]
            rows.append((*until, least(warm) / least(cold), cold[-1][0], warm[-1][0]))
            print(
                f"  seed {seed}: without {until[0]}, with {until[1]} evaluations to {target:.6f}; "
                f"least {least(cold):.6f}, {least(warm):.6f}; in all {cold[-1][0]}, {warm[-1][0]}",
                flush=True,
            )
    cold_, warm_ = (statistics.median(r[i] for r in rows) for i in (0, 1))
    end = math.exp(statistics.mean(math.log(r[2]) for r in rows))
    print(
        f"cold={cold_:g} warm={warm_:g} ratio={statistics.median(r[1] / r[0] for r in rows):.3f} "
        f"end={end:.3f}"
    )


if __name__ == "__main__":
    main()
