"""The model that an export starts from: a study's folder in outputs/, read and checked."""

from __future__ import annotations

import json
import shlex
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, cast

from sintra.core.artifact import Artifact
from sintra.core.errors import UserError
from sintra.core.kv_cache import kv_arguments
from sintra.core.recipe import Recipe
from sintra.core.types import Measurement
from sintra.formats.gguf.chat_template import ChatFormat
from sintra.store.files import hash_file
from sintra.store.store import Store
from sintra.study.result_upgrade import parse_result

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RERUN_HINT = "run the same `doit optimize` again"
WEIGHT_FILES = (".safetensors", ".safetensors.index.json")


class HardwareSummary(TypedDict):
    """The device profile as it stands in result.json."""

    name: str  # of the profile
    title: str  # for people
    backend: str  # cpu, cuda, vulkan, metal ...
    isa: str  # architecture first: "x86_64 avx2", "aarch64 dotprod"
    cores: int
    ram_bytes: int  # physical memory, bytes
    usable_bytes: int  # memory that a model may take, bytes


class PinnedSource(TypedDict):
    """Where the original model came from, as it stands in manifest.json."""

    kind: str  # folder or hub
    digest: str  # tree digest of a folder, or commit of a hub repository


@dataclass(frozen=True)
class DeliveredModel:
    """The winner of a study, whose file is the one that was measured."""

    folder: Path  # of the study, in outputs/
    store: Store  # the cache that the study was built in
    result: dict[str, Any]  # result.json
    manifest: dict[str, Any]  # manifest.json

    @property
    def study(self) -> str:
        """Return the study's name."""
        return str(self.result["study"])

    @property
    def model_name(self) -> str:
        """Return the original model's name."""
        return str(self.result["model"])

    @property
    def status(self) -> str:
        """Return the study's status: pass, fail, impossible or inconclusive."""
        return str(self.result["status"])

    @property
    def variant(self) -> str:
        """Return the name of the winner's recipe."""
        return str(self.result["winner"]["name"])

    @property
    def title(self) -> str:
        """Return "model-hardware" with both names of the result."""
        return f"{self.result['model']}-{self.result['hardware']}"

    @property
    def digest(self) -> str:
        """Return the hex SHA-256 of the winner's file."""
        return str(self.result["winner"]["artifact"]["sha256"])

    @property
    def size(self) -> int:
        """Return the size of the winner's file, bytes."""
        return int(self.result["winner"]["artifact"]["bytes"])

    @property
    def gguf(self) -> Path:
        """Return the path of the winner's GGUF."""
        return self.folder / "model.gguf"

    @property
    def recipe(self) -> Recipe:
        """Return the winner's recipe."""
        return Recipe.of(self.result["winner"]["recipe"])

    @property
    def context(self) -> int:
        """Return the context that the model is served with, tokens; memory was measured at it."""
        return int(self.result["context"])

    @property
    def kv_arguments(self) -> list[str]:
        """Return llama.cpp's arguments for the winner's KV cache."""
        return kv_arguments(self.recipe.kv)

    @property
    def window(self) -> int:
        """Return the window of the texts, tokens; results of before had one number for both."""
        return int(self.result.get("window", self.context))

    @property
    def hardware(self) -> HardwareSummary:
        """Return the profile of the device that the model was made for.

        Raises UserError for a result that is older than this field.
        """
        summary = self.result.get("device")
        if summary is None:
            raise UserError(
                f"{self.folder.name} was written before results held their device: {RERUN_HINT}"
            )
        return cast(HardwareSummary, summary)

    @cached_property
    def measurements(self) -> dict[str, Measurement]:
        """Map each metric to the winner's measurement of it."""
        rows = self.result["winner"]["measurements"]
        return {row["metric"]: Measurement(**row) for row in rows}

    @property
    def source(self) -> PinnedSource:
        """Return what the original model was pinned to."""
        return cast(PinnedSource, self.manifest["source"])

    @property
    def report_digest(self) -> str:
        """Return the hex SHA-256 of the report text."""
        return str(self.manifest["texts"]["report"])

    @property
    def tool_versions(self) -> dict[str, str]:
        """Map each tool that made or measured the model to its version."""
        return cast(dict[str, str], self.manifest["tools"])

    def empty_folder(self, name: str) -> Path:
        """Make an empty folder of that name in the study's folder; delete an older one."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return out

    def print_goal_note(self) -> None:
        """Print a note where the study's goal is not met."""
        if self.status != "pass":
            print(f"note: the study ended with {self.status}: not every limit of its goal holds")

    @contextmanager
    def original_model(self) -> Iterator[Path]:
        """Lay out the pinned 16-bit model (config.json, safetensors, tokenizer) in a folder.

        The folder goes when the context ends. Raises UserError where the store lacks the model.
        """
        artifact = self._original_artifact()
        with tempfile.TemporaryDirectory(dir=self.store.folder("tmp")) as folder:
            yield self.store.lay_out(artifact, Path(folder))

    def report_tokens(self) -> NDArray[np.int32]:
        """Return the report text as it was measured: token ids, (windows, context).

        Raises UserError where the store lacks the study's baseline.
        """
        import numpy as np  # large: other exports do without

        text = self._find_artifact(
            "fetch",
            lambda action: action["params"] == {"kind": "file", "digest": self.report_digest},
        )
        baseline = self._find_artifact(
            "baseline",
            lambda action: (
                text is not None
                and action["inputs"].get("text") == text.digest
                and action["params"]["context"] == self.window
            ),
        )
        if baseline is None:
            raise self._not_stored("baseline")
        digest = next(f.sha256 for f in baseline.files if f.path == "tokens.npy")
        tokens: NDArray[np.int32] = np.load(self.store.blob_path(digest))
        return tokens

    def _original_artifact(self) -> Artifact:
        artifact = self._find_artifact(
            "fetch",
            lambda action: (
                action["params"].get("kind") == self.source["kind"]
                and action["params"].get("digest") == self.source["digest"]
            ),
        )
        if artifact is None:
            raise self._not_stored("original")
        return artifact

    def _not_stored(self, item: str) -> UserError:
        return UserError(
            f"the {item} of {self.folder.name} isn't in {self.store.root.name}/ any more: "
            f"{RERUN_HINT}"
        )

    def _find_artifact(
        self, stage: str, matches: Callable[[Mapping[str, Any]], bool]
    ) -> Artifact | None:
        """Return a complete artifact of a stage whose action matches, or None."""
        for record in self.store.read_entries():
            action = record.get("action") or {}
            if action.get("stage") == stage and matches(action):
                outcome = self.store.lookup(record["key"])
                if isinstance(outcome, Artifact):
                    return outcome
        return None


def open_delivered(
    folder: Path, store: Store, runtime: str, format: str | None = "gguf"
) -> DeliveredModel:
    """Open a folder of outputs/ for an export and check its model.

    runtime: what runs the export ("Ollama", "LiteRT"), for messages; format: the file format that
    it reads, None for an export that starts from the original. Raises UserError where there is no
    winner, it has another format, or its file isn't the one that was measured.
    """
    result: dict[str, Any] = dict(parse_result((folder / "result.json").read_text()))
    if not result["winner"]:
        raise UserError(f"{folder.name} has no winner to export: {result['status']}")
    manifest = json.loads((folder / "manifest.json").read_text())
    winner = DeliveredModel(folder, store, result, manifest)
    if format is None:
        return winner
    if result["winner"]["artifact"]["path"] != "model.gguf":
        raise UserError(
            f"{runtime} runs GGUF, and the winner of {folder.name} is {winner.recipe.format}"
        )
    if not winner.gguf.exists() or hash_file(winner.gguf) != winner.digest:
        raise UserError(f"{winner.gguf} isn't the winner any more: {RERUN_HINT}")
    return winner


def print_template_note(chat: ChatFormat, consequence: str) -> None:
    """Print a note where a model's chat template isn't handed over, and what that means there; and
    where it is, with a date that doesn't change any more.
    """
    if chat.turns is None:
        print(f"note: {consequence}: no chat template of plain turns ({chat.reason})")
    elif chat.dated:
        print("note: the chat template writes the date; here it stays that of today")


def relative_path(path: Path) -> str:
    """Return a path relative to the current folder where it lies below it, as a shell's word."""
    shown = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path
    return shlex.quote(str(shown))


def copy_tokenizer_files(source: Path, target: Path) -> None:
    """Copy a checkpoint's files to another folder, all but its weights."""
    for path in source.iterdir():
        if not path.name.endswith(WEIGHT_FILES):
            shutil.copyfile(path, target / path.name)
