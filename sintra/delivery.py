"""The files of outputs/: the winner, and beside it the best of every other format."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from sintra.branches import left_out, tried
from sintra.formats import FORMATS
from sintra.graph import Graph
from sintra.judge import judge, ranked
from sintra.recipe import Recipe
from sintra.report import NAME, parse
from sintra.store import Store, link_or_copy
from sintra.types import Artifact, Candidate, Failure, Goal

SAME = 0.99


def artifact(graph: Graph, store: Store, recipe: dict[str, Any]) -> Artifact:
    """What was made of a recipe that stands in a result."""
    made = graph.quantize(Recipe.of(recipe)).outcome(store)
    assert isinstance(made, Artifact)
    return made


def wanted(
    graph: Graph, store: Store, winner: dict[str, Any] | None, known: list[Candidate], goal: Goal
) -> dict[str, Artifact]:
    """Folder below outputs/<study> ("" for the winner's, a format's name for the others') ->
    artifact.
    """
    if winner is None:
        return {}
    found = {"": artifact(graph, store, winner["recipe"])}
    own = Recipe.of(winner["recipe"]).format
    for name in tried(graph.study):
        best = ranked([c for c in known if c.recipe.format == name], goal)
        if name != own and best:
            found[name] = artifact(graph, store, best[0].recipe.as_json())
    return found


def parts(made: Artifact) -> dict[str, tuple[int, str]]:
    """Path -> size and SHA-256 of what is delivered of an artifact."""
    return {
        f.path: (f.size, f.sha256)
        for f in made.files
        if f.path == "model.gguf" or f.path.startswith("model/")
    }


def sound(store: Store, out: Path, what: dict[str, Artifact]) -> bool:
    """Whether the folder holds them all and nothing else that could be taken for one: by size, and
    not from before a blob was made anew (since the old one was damaged).
    """
    files = {
        Path(folder, path): part
        for folder, made in what.items()
        for path, part in parts(made).items()
    }
    if models(out) != {p.parts[0] for p in files}:
        return False
    return all(
        (out / path).is_file() and _same(out / path, store.blob(digest), size)
        for path, (size, digest) in files.items()
    )


def _same(path: Path, blob: Path, size: int) -> bool:
    here, there = path.stat(), blob.stat()
    linked = (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)
    return here.st_size == size and (linked or here.st_mtime_ns >= there.st_mtime_ns)


def models(out: Path) -> set[str]:
    """Names in a result's folder that are models."""
    names = {"model.gguf", "model", *FORMATS}
    return {p.name for p in out.iterdir() if p.name in names}


def put(store: Store, out: Path, what: dict[str, Artifact]) -> None:
    """Hard links to the blobs where the filesystem allows them (read-only, like the blobs), else
    copies.
    """
    for name in models(out):
        if (out / name).is_dir():
            shutil.rmtree(out / name)
    for folder, made in what.items():
        for path, (_, digest) in parts(made).items():
            target = out / folder / path
            target.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(store.blob(digest), target)
    if not any(path == "model.gguf" for made in [what.get("")] if made for path in parts(made)):
        (out / "model.gguf").unlink(missing_ok=True)


def extra(graph: Graph, store: Store, winner: dict[str, Any] | None) -> dict[str, Artifact]:
    """Folder below outputs/<study> -> what a plugin's stage or probe made of the winner."""
    if winner is None or Recipe.of(winner["recipe"]).format != "gguf":
        return {}
    found = {f"extra/{s.stage}": s.outcome(store) for s in graph.extra(Recipe.of(winner["recipe"]))}
    return {name: made for name, made in found.items() if isinstance(made, Artifact)}


def put_extra(store: Store, out: Path, what: dict[str, Artifact]) -> dict[str, str]:
    """Link the files of plugins; returns path -> SHA-256."""
    shutil.rmtree(out / "extra", ignore_errors=True)
    for folder, made in what.items():
        for file in made.files:
            (out / folder / file.path).parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(store.blob(file.sha256), out / folder / file.path)
    return {f"{folder}/{f.path}": f.sha256 for folder, made in what.items() for f in made.files}


def digests(what: dict[str, Artifact]) -> dict[str, str]:
    """Path -> SHA-256, for the manifest."""
    return {
        Path(folder, path).as_posix(): digest
        for folder, made in what.items()
        for path, (_, digest) in parts(made).items()
    }


def locks(graph: Graph, store: Store, what: dict[str, Artifact]) -> dict[str, Any]:
    """For the manifest: every version of the libraries that made and measured what isn't GGUF."""
    found = {}
    for name in tried(graph.study):
        made = graph.environment(name).outcome(store) if FORMATS[name].environment else None
        if isinstance(made, Artifact):
            found[FORMATS[name].environment] = store.read_json(made, "lock.json")
    return {"locks": found} if found and what else {}


def by_format(
    graph: Graph, store: Store, known: list[Candidate], goal: Goal
) -> list[dict[str, Any]]:
    """A row for each format that was asked for: its best variant, or why there is none."""
    reasons = dict(
        zip(
            [f for f in graph.study.formats if f not in tried(graph.study)],
            left_out(graph.study),
            strict=True,
        )
    )
    rows = []
    for name in graph.study.formats:
        mine = [c for c in known if c.recipe.format == name]
        best = ranked(mine, goal)
        row: dict[str, Any] = {"format": name, "runtime": FORMATS[name].runtime}
        failed = next((c.failure for c in mine if c.failure), None)
        if best:
            row |= {"recipe": best[0].recipe.name, "status": judge(best[0], goal).status}
            row |= {"agreement": agreement(graph, store, name)} if name != "gguf" else {}
        else:
            word = f"{failed.kind}: {failed.message}" if failed else "nothing was proposed"
            row |= {
                "status": "not_tried" if name in reasons else "failed",
                "reason": reasons.get(name, word),
            }
        rows.append(row)
    return rows


def agreement(graph: Graph, store: Store, name: str) -> dict[str, float]:
    """How the format's runtime agrees with llama.cpp on the 16-bit model: metric -> value."""
    found = graph.agreement(name).outcome(store)
    if found is None or isinstance(found, Failure):
        return {}
    return {m.metric: m.value for m in parse(store.read_json(found, NAME))}


def format_table(rows: list[dict[str, Any]], known: list[Candidate], winner: str | None) -> str:
    """The formats side by side: the best of each on the same tokens, with speed and memory as
    measured on this machine.
    """
    lines = [
        f"{'format':<12}{'best':<22}{'MB':>8}{'KLD (nats)':>20}{'same top':>10}{'tok/s':>9}{'RAM MB':>8}  runtime"
    ]
    found = {c.recipe.name: c for c in known}
    for row in rows:
        if "recipe" not in row:
            lines.append(f"{row['format']:<12}{row['reason']}"[:160])
            continue
        best = found[row["recipe"]]
        kld = best.find("kld_mean")
        quality = f"{kld.value:.5f} +-{kld.stderr or 0:.5f}" if kld else "-"
        cells = [
            (_show(best, n, s, d))
            for n, s, d in (("same_top", 0.01, 1), ("tg_tps", 1, 0), ("ram_peak_bytes", 1e6, 0))
        ]
        mark = " (winner)" if row["recipe"] == winner else ""
        size = _show(best, "size_bytes", 1e6, 2)
        lines.append(
            f"{row['format']:<12}{best.recipe.name:<22}{size:>8}{quality:>20}{cells[0] + ' %':>10}{cells[1]:>9}"
            f"{cells[2]:>8}  {row['runtime']}{mark}"
        )
    for row in rows:
        if agreed := row.get("agreement"):
            trap = (
                ""
                if agreed["agree_tokens"] > SAME
                else ": transformers reads this model's tokenizer differently"
            )
            lines.append(
                f"{row['format']}: the two 16-bit models are {agreed['agree_kld_mean']:.2g} nats "
                "apart on the same tokens; "
                f"the two tokenizers have {100 * agreed['agree_tokens']:.4g} % of theirs in "
                f"common{trap}"
            )
    return "\n".join(
        [
            *lines,
            (
                "tok/s (one after the other) and RAM measured on this machine, in each format's "
                "own "
                "runtime"
            ),
        ]
    )


def _show(candidate: Candidate, metric: str, scale: float, digits: int) -> str:
    value = candidate.value(metric)
    return "-" if value is None else f"{value / scale:.{digits}f}"
