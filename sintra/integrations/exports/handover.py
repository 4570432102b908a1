"""What an export is given to hand over: a study's folder in outputs/, opened and checked."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe, variant_name
from sintra.core.types import Artifact
from sintra.store.files import hash_file
from sintra.store.store import Store

AGAIN = "run the same `doit optimize` again"


@dataclass(frozen=True)
class Handover:
    """A winner whose file is the one that was measured. result, manifest: result.json and
    manifest.json.
    """

    folder: Path
    store: Store
    result: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def digest(self) -> str:
        """The SHA-256 of the winner's file."""
        return str(self.result["winner"]["artifact"]["sha256"])

    @property
    def size(self) -> int:
        """The winner's bytes."""
        return int(self.result["winner"]["artifact"]["bytes"])

    @property
    def model(self) -> Path:
        """The winner's GGUF."""
        return self.folder / "model.gguf"

    @property
    def recipe(self) -> Recipe:
        """How it was made."""
        return Recipe.of(self.result["winner"]["recipe"])

    @property
    def variant(self) -> str:
        """Return the name of the winner's recipe."""
        return variant_name(self.recipe)

    @property
    def title(self) -> str:
        """model-hardware, as it stands in the result."""
        return f"{self.result['model']}-{self.result['hardware']}"

    @property
    def device(self) -> dict[str, Any]:
        """The device that it was made for: name, title, backend, isa, cores, ram_bytes,
        usable_bytes. Raises UserError.
        """
        found: dict[str, Any] | None = self.result.get("device")
        if found is None:
            raise UserError(
                f"{self.folder.name} was written before results held their device: {AGAIN}"
            )
        return found

    @cached_property
    def measured(self) -> dict[str, dict[str, Any]]:
        """Metric -> the winner's measurement, as in result.json."""
        return {m["metric"]: m for m in self.result["winner"]["measurements"]}

    def fresh(self, name: str) -> Path:
        """An empty folder of that name in the study's."""
        out = self.folder / name
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        return out

    def warn(self) -> None:
        """Say so where the goal isn't met."""
        if self.result["status"] != "met":
            print(
                f"note: this model is {self.result['status']}: the limits of its goal are not all "
                "held"
            )

    @contextmanager
    def original(self) -> Iterator[Path]:
        """A view of the 16-bit model's files (config.json, safetensors, tokenizer), as they were
        pinned. Raises UserError.
        """
        made = self._fetched()
        with tempfile.TemporaryDirectory(dir=self.store.folder("tmp")) as folder:
            yield self.store.lay_out(made, Path(folder))

    def _fetched(self) -> Artifact:
        source = self.manifest["source"]
        found = self._made(
            "fetch",
            lambda action: all(action["params"].get(k) == source[k] for k in ("kind", "digest")),
        )
        if found is None:
            raise UserError(
                f"the original of {self.folder.name} isn't in {self.store.root.name}/ any more: "
                f"{AGAIN}"
            )
        return found

    def tokens(self) -> Any:
        """The report text as it was measured: token ids, (windows, context), int32. Raises
        UserError.
        """
        import numpy as np

        digest = self.manifest["texts"]["report"]
        text = self._made(
            "fetch", lambda action: action["params"] == {"kind": "file", "digest": digest}
        )
        base = self._made(
            "baseline",
            lambda action: (
                text is not None
                and action["inputs"].get("text") == text.digest
                and action["params"]["context"] == self.result["context"]
            ),
        )
        if base is None:
            raise UserError(
                f"the baseline of {self.folder.name} isn't in {self.store.root.name}/ any more: "
                f"{AGAIN}"
            )
        return np.load(
            self.store.blob(next(f.sha256 for f in base.files if f.path == "tokens.npy"))
        )

    def _made(self, stage: str, fits: Callable[[dict[str, Any]], bool]) -> Artifact | None:
        """A sound artifact of a stage whose action fits."""
        for record in self.store.records():
            action = record.get("action") or {}
            if action.get("stage") == stage and fits(action):
                found = self.store.lookup(record["key"])
                if isinstance(found, Artifact):
                    return found
        return None


def near(path: Path) -> Path:
    """A path as it is typed here: relative where it lies below the current folder."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def opened(folder: Path, store: Store, taker: str, format: str | None = "gguf") -> Handover:
    """Open a folder of outputs/ for a taker ("Ollama", "Docker"). format: what it runs; None: it
    starts from the original.

    Raises UserError where there is no winner, it is of another format, or its file isn't the one
    that was measured.
    """
    result = json.loads((folder / "result.json").read_text())
    if not result["winner"]:
        raise UserError(f"{folder.name} has no winner to export: {result['status']}")
    given = Handover(folder, store, result, json.loads((folder / "manifest.json").read_text()))
    if format is None:
        return given
    if result["winner"]["artifact"]["path"] != "model.gguf":
        raise UserError(
            f"{taker} runs GGUF, and the winner of {folder.name} is {given.recipe.format}"
        )
    if not given.model.exists() or hash_file(given.model) != given.digest:
        raise UserError(f"{given.model} isn't the winner any more: {AGAIN}")
    return given


FOLDER = Path(__file__).with_name("templates")


def render(name: str, /, **values: Any) -> str:
    """A template's text. A name that it needs and isn't given raises jinja2.UndefinedError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    around = Environment(
        loader=FileSystemLoader(FOLDER),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,
    )
    return around.get_template(name).render(**values)
