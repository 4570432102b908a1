"""Check a model folder: which files belong to the model, and whether it is a model at all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from sintra.core.errors import UserError
from sintra.formats.checkpoint import model_kind
from sintra.formats.checkpoint.config_values import check_values
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.safetensors import TensorEntry, read_safetensors_header
from sintra.formats.checkpoint.vocabulary import embedding_rows, refuse_other_size

MODEL_FILE = (
    r"(config|generation_config|quantize_config|special_tokens_map|added_tokens|vocab"
    r"|preprocessor_config)\.json|tokenizer(?![\w.]*\.(?:py[a-z]?|so|pkl|bin|pth?|ckpt)$)[\w.]*"
    r"|merges\.txt|chat_template\.(?:jinja|json)"
    r"|[\w.-]+\.safetensors|[\w.-]+\.safetensors\.index\.json"
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
WITH_AUTO_MAP = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


def is_model_file(name: str, code: bool = False) -> bool:
    """Return whether a file of a model folder or repository belongs to the model.

    Those are safetensors, tokenizer and configuration; with `code` also the Python files beside
    them.
    """
    return re.fullmatch(MODEL_FILE, name) is not None or (
        code and re.fullmatch(r"\w+\.py", name) is not None
    )


def _lies_within(folder: Path, path: Path) -> bool:
    """Return whether a file really lies in its folder.

    In the hub's cache, files of snapshots/COMMIT/ link to blobs/ of the same model.
    """
    home, real = folder.resolve(), path.resolve()
    blobs = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    return any(real.is_relative_to(allowed) for allowed in [home, *blobs])


def _read_shard_names(index: Path) -> set[str]:
    """Read the files that an index names. Raises UserError."""
    weight_map = read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise UserError(f"{index} has no weight_map from tensors to files")
    return set(weight_map.values())


def _refuse_foreign_code(folder: Path) -> None:
    """Refuse classes from another repository, since what is not in the folder is not pinned.

    Raises UserError.
    """
    for path in (p for name in WITH_AUTO_MAP if (p := folder / name).is_file()):
        auto_map = json.dumps(read_object(path).get("auto_map"))
        for reference in re.findall(r"[\w.-]+/[\w.-]+--[\w.-]+", auto_map):
            raise UserError(
                f"{path} names code of another repository ({reference}), which isn't pinned: put "
                "the files beside it"
            )


class ModelFolder(NamedTuple):
    """A folder that was checked."""

    files: list[Path]  # those that belong to the model
    config: dict[str, Any]  # config.json
    tensors: dict[str, TensorEntry]  # of all headers, by name

    @property
    def weights(self) -> list[Path]:
        """Return the files of weights."""
        return [path for path in self.files if path.suffix == ".safetensors"]


def check_folder(folder: Path, code: bool = False, quantized: bool = False) -> ModelFolder:
    """Return what a folder holds, after checking that it can be a model.

    With `code` the Python files that come with the model are among them; quantized: whether it may
    be quantized already. Raises UserError in one line.
    """
    if not folder.is_dir():
        raise UserError(f"there is no model folder {str(folder)!r}")
    model_kind.refuse_adapter(folder)
    model_kind.refuse_pipeline(folder)
    files = _model_files(folder, code)
    weights = _weight_files(folder, files)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json")
    config = read_object(folder / "config.json")
    check_values(folder / "config.json", config)
    if code:
        _refuse_foreign_code(folder)
    tensors: dict[str, TensorEntry] = {}
    for path in weights:
        tensors |= read_safetensors_header(path)
    model_kind.refuse_other_kinds(folder, config, tensors, quantized)
    model_kind.refuse_no_tokenizer(folder, [p.name for p in files])
    refuse_other_size(folder, config, embedding_rows(tensors))
    kept = [p for p in files if p.suffix != ".safetensors" or p in weights]
    return ModelFolder(kept, config, tensors)


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors that hold a folder's model. Raises UserError where there are none."""
    return _weight_files(folder, _model_files(folder, code=False))


def _model_files(folder: Path, code: bool) -> list[Path]:
    """Return the files that belong to a model. Raises UserError for a link out of the folder."""
    files = sorted(p for p in folder.iterdir() if p.is_file() and is_model_file(p.name, code))
    for path in files:
        if not _lies_within(folder, path):
            raise UserError(
                f"{path} is a link that leads out of its folder, to {path.resolve()}: put the "
                "file itself there"
            )
    return files


def _weight_files(folder: Path, files: list[Path]) -> list[Path]:
    """Return the safetensors that hold the model: those of an index, where there is one.

    A second copy in another format of its maker's (consolidated.safetensors) isn't among them.
    Raises UserError where there are none, or one that the index names is missing.
    """
    weights = [p for p in files if p.suffix == ".safetensors"]
    if not weights:
        raise UserError(_no_weights(folder))
    named: set[str] = set()
    for index in (p for p in files if p.name.endswith(".index.json")):
        named |= (shards := _read_shard_names(index))
        if missing := shards - {p.name for p in files}:
            raise UserError(f"{folder} lacks {sorted(missing)[0]}, which {index.name} names")
    if named:
        return [p for p in weights if p.name in named]
    return [p for p in weights if not p.name.startswith("consolidated")] or weights


def _no_weights(folder: Path) -> str:
    """Say that a folder has no weights, and what is there instead."""
    if any(p.suffix in PICKLED for p in folder.iterdir()):
        return (
            f"{folder} has pickled weights only, which can run code: save them as safetensors first"
        )
    inside = sorted(p.parent.name for p in folder.glob("*/*.safetensors"))
    if inside and inside[0].isprintable():
        return f"{folder} has no weights itself: did you mean {folder / inside[0]}?"
    ggufs = sorted(p.name for p in folder.glob("*.gguf"))
    if ggufs and ggufs[0].isprintable():
        return f"{folder} has no *.safetensors: for its GGUF give model={folder / ggufs[0]}"
    return f"{folder} has no weights: expected *.safetensors beside config.json"
