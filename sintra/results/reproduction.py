"""`doit reproduce`: a result made again from nothing, and compared with what was delivered.

Every step above the winner's file and its measurement on the report text is built in an empty
cache, from the same sources; only the converter, which is pinned by digest, is taken over. Equal
bytes are the best that can come out. Other processors, numbers of threads or versions round sums
in another order: then the KL divergences are compared within their error.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from sintra.build.graph import Graph
from sintra.build.run_state import say
from sintra.build.step import Step
from sintra.core.artifact import Artifact
from sintra.core.errors import UserError
from sintra.core.stage import tool_version
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements
from sintra.results.finished import FinishedStudy, build_artifact, open_finished
from sintra.results.pages.words import measurements_by_metric
from sintra.results.result import model_file
from sintra.results.table import format_small
from sintra.store.entries import StepRecord
from sintra.store.files import link_or_copy, read_regular, remove_path
from sintra.store.store import Store
from sintra.study.json_types import ManifestJson

FOLDER = "reproduced"  # in the cache, while a result is made again
RECORD = tuple(StepRecord.__annotations__)  # what an entry says beside its key and outcome
ERRORS = 2.0  # standard errors that two measurements of a KLD may differ by
COLUMN = 11  # where what a line says begins


@dataclass(frozen=True)
class Reproduction:
    """A result beside what came out when it was made again."""

    delivered: str  # SHA-256 of the model
    again: str  # SHA-256 of what came out
    kld: float | None  # on the report text, nats, as recorded; None where it wasn't measured there
    kld_again: float | None  # nats
    stderr: float  # of the recorded one, nats
    versions: tuple[str, ...]  # of tools that have changed, such as "torch 2.12.0 -> 2.13.0"

    @property
    def same_bytes(self) -> bool:
        """Return whether the same file came out."""
        return self.delivered == self.again

    @property
    def confirmed(self) -> bool:
        """Return whether the same file came out, or one as good within the error."""
        if self.same_bytes:
            return True
        if self.kld is None or self.kld_again is None:
            return False
        return abs(self.kld - self.kld_again) <= ERRORS * self.stderr

    def lines(self) -> list[str]:
        """Return what came out, in lines of a name and words."""
        model = f"the same bytes (SHA-256 {self.again[:12]}...)"
        if not self.same_bytes:
            model = f"other bytes: SHA-256 {self.again[:12]}... for {self.delivered[:12]}..."
        rows = [("model", model)]
        if self.kld is not None and self.kld_again is not None:
            numbers = f"{format_small(self.kld)} recorded, {format_small(self.kld_again)} again"
            rows.append(("KLD", f"{numbers} (+- {format_small(self.stderr)} nats)"))
        rows.append(("versions", "; ".join(self.versions) or "the same"))
        return [f"  {name:<{COLUMN}}{words}" for name, words in rows]


def print_reproductions(root: Path, store: Store, studies: list[str]) -> bool:
    """Make the latest result or those named again; return whether all were confirmed.

    Raises UserError for a name without a result, and for sources that aren't what they were.
    """
    good = True
    for study in studies or ["latest"]:
        found = reproduce(open_finished(root, study), store, say)
        good = good and found.confirmed
        print(f"{study}: {'reproduced' if found.confirmed else 'not reproduced'}")
        print("\n".join(found.lines()))
    return good


def reproduce(done: FinishedStudy, store: Store, say: Callable[[str], None]) -> Reproduction:
    """Build a result again in an empty cache below `store`, and compare.

    What a stopped run has built there is used by the next one; nothing is left at the end. say:
    takes a line for each step. Raises UserError.
    """
    manifest: ManifestJson = json.loads(read_regular(done.folder / "manifest.json"))
    graph = done.workspace.graph()  # its steps know nothing of the study's own cache
    check_sources(done.folder.name, graph, manifest)
    scratch = Store(store.root / FOLDER / done.folder.name)
    take_over(graph.toolchain(), done.store, scratch)
    workspace = replace(done.workspace, store=scratch, shared=None)
    model = build_artifact(workspace, graph.quantize(done.recipe), say).model
    recorded = measurements_by_metric(done.winner).get("kld_mean")
    quality = graph.variant(done.recipe, "report").quality
    if done.winner["decided_on"] != "report":
        recorded = quality = None
    again = kld_of(build_artifact(workspace, quality, say), scratch) if quality else None
    remove_path(scratch.root)
    return Reproduction(
        delivered=model_file(done.winner)["sha256"],
        again=model.sha256,
        kld=recorded["value"] if recorded else None,
        kld_again=again,
        stderr=(recorded.get("stderr") or 0.0) if recorded else 0.0,
        versions=tuple(changed_versions(manifest)),
    )


def check_sources(study: str, graph: Graph, manifest: ManifestJson) -> None:
    """Check that the model and the texts are those of the manifest. Raises UserError."""
    if graph.source.digest != manifest["source"]["digest"]:
        raise UserError(f"the model of outputs/{study} isn't what it was: {graph.source.locator}")
    for role, text in graph.texts.items():
        if text.digest != manifest["texts"].get(role):
            raise UserError(f"the {role} text of outputs/{study} isn't what it was: {text.locator}")


def take_over(step: Step, source: Store, target: Store) -> None:
    """Give a step's artifact of one cache to another one, where the first has it."""
    key = step.key(source)
    outcome = source.lookup(key) if key else None
    entry = source.read_entry(key) if key else None
    if key is None or entry is None or not isinstance(outcome, Artifact):
        return
    for file in outcome.files:
        blob = target.blob_path(file.sha256)
        if not target.has_blob(file):
            blob.parent.mkdir(parents=True, exist_ok=True)
            link_or_copy(source.blob_path(file.sha256), blob)
    target.publish(key, outcome, cast(StepRecord, {n: v for n, v in entry.items() if n in RECORD}))


def kld_of(artifact: Artifact, store: Store) -> float | None:
    """Return the mean KLD that a quality step has measured, in nats."""
    rows = parse_measurements(store.read_json(artifact, MEASUREMENTS_FILE))
    return next((row.value for row in rows if row.metric == "kld_mean"), None)


def changed_versions(manifest: ManifestJson) -> list[str]:
    """Return the tools whose installed version isn't that of the manifest."""
    return [
        f"{name} {version} -> {tool_version(name)}"
        for name, version in manifest["tools"].items()
        if tool_version(name) != version
    ]
