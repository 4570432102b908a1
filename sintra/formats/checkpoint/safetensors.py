"""Check a model folder: which files belong to the model, and whether its safetensors are sound."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any, TypedDict

from sintra.core.errors import UserError

MODEL_FILE = (
    r"(config|generation_config|quantize_config|special_tokens_map|added_tokens|vocab"
    r"|preprocessor_config)\.json|tokenizer(?![\w.]*\.(?:py[a-z]?|so|pkl|bin|pth?|ckpt)$)[\w.]*"
    r"|merges\.txt|chat_template\.(?:jinja|json)"
    r"|[\w.-]+\.safetensors|[\w.-]+\.safetensors\.index\.json"
)
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
MOST_HEADER = 100_000_000  # bytes; the format's own limit
WITH_AUTO_MAP = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


class TensorEntry(TypedDict):
    """A tensor in the header of a safetensors file."""

    dtype: str  # safetensors' name, as "F16"
    shape: list[int]
    data_offsets: list[int]  # start and end in bytes, from the end of the header


def is_model_file(name: str, code: bool = False) -> bool:
    """Return whether a file of a model folder or repository belongs to the model.

    Those are safetensors, tokenizer and configuration; with `code` also the Python files beside
    them.
    """
    return re.fullmatch(MODEL_FILE, name) is not None or (
        code and re.fullmatch(r"\w+\.py", name) is not None
    )


def read_safetensors_header(path: Path) -> dict[str, TensorEntry]:
    """Read the header of a safetensors file: 8 bytes of length, then JSON.

    Returns the entries by tensor name, without __metadata__. Raises UserError for a damaged file.
    """
    size = path.stat().st_size
    length, header = _read_json_header(path, size)
    header.pop("__metadata__", None)
    if strange := [name for name, entry in header.items() if not _is_tensor(entry)]:
        raise UserError(
            f"{path} is no safetensors file: its header says nothing sensible of "
            f"{strange[0][:80]!r}"
        )
    need = max((t["data_offsets"][1] for t in header.values()), default=0)
    if need + 8 + length != size:
        raise UserError(
            f"{path} is truncated: {size} bytes where its header names {need + 8 + length}; get "
            "it again"
        )
    return header


def _read_json_header(path: Path, size: int) -> tuple[int, dict[str, Any]]:
    """Read the length in bytes and the JSON object at the start of a file of `size` bytes.

    Raises UserError.
    """
    with path.open("rb") as handle:
        head = handle.read(8)
        length = struct.unpack("<Q", head)[0] if len(head) == 8 else size
        if length > size - 8:
            raise UserError(f"{path} is truncated: copy or download it again")
        if length > MOST_HEADER:
            raise UserError(f"{path} is no safetensors file: a header of {length} bytes")
        try:
            header = json.loads(handle.read(length))
        except (ValueError, RecursionError):
            raise UserError(f"{path} is no safetensors file: its header can't be read") from None
    if not isinstance(header, dict):
        raise UserError(f"{path} is no safetensors file: its header can't be read")
    return length, header


def _is_tensor(entry: object) -> bool:
    """Return whether JSON is a TensorEntry with possible numbers."""
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, ends = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(ends, list) or len(ends) != 2:
        return False
    numbers = [*shape, *ends]
    return all(type(n) is int and 0 <= n < 1 << 62 for n in numbers) and ends[0] <= ends[1]


def _lies_within(folder: Path, path: Path) -> bool:
    """Return whether a file really lies in its folder.

    In the hub's cache, files of snapshots/COMMIT/ link to blobs/ of the same model.
    """
    home, real = folder.resolve(), path.resolve()
    blobs = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    return any(real.is_relative_to(allowed) for allowed in [home, *blobs])


def _read_object(path: Path) -> dict[str, Any]:
    """Read a JSON file that must hold an object. Raises UserError."""
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object")
    return data


def _read_shard_names(index: Path) -> set[str]:
    """Read the files that an index names. Raises UserError."""
    weight_map = _read_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(n, str) for n in weight_map.values()):
        raise UserError(f"{index} has no weight_map from tensors to files")
    return set(weight_map.values())


def _refuse_foreign_code(folder: Path) -> None:
    """Refuse classes from another repository, since what is not in the folder is not pinned.

    Raises UserError.
    """
    for path in (p for name in WITH_AUTO_MAP if (p := folder / name).is_file()):
        auto_map = json.dumps(_read_object(path).get("auto_map"))
        for reference in re.findall(r"[\w.-]+/[\w.-]+--[\w.-]+", auto_map):
            raise UserError(
                f"{path} names code of another repository ({reference}), which isn't pinned: put "
                "the files beside it"
            )


def check_folder(folder: Path, code: bool = False) -> list[Path]:
    """Return the model's files, after checking that they can be a model.

    With `code` the Python files that come with the model are among them. Raises UserError in one
    line.
    """
    if not folder.is_dir():
        raise UserError(f"there is no model folder {str(folder)!r}")
    files = sorted(p for p in folder.iterdir() if p.is_file() and is_model_file(p.name, code))
    for path in files:
        if not _lies_within(folder, path):
            raise UserError(
                f"{path} is a link that leads out of its folder, to {path.resolve()}: put the "
                "file itself there"
            )
    weights = _weight_files(folder, files)
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json")
    _read_object(folder / "config.json")
    if code:
        _refuse_foreign_code(folder)
    for path in weights:
        read_safetensors_header(path)
    for index in (p for p in files if p.name.endswith(".index.json")):
        missing = _read_shard_names(index) - {p.name for p in files}
        if missing:
            raise UserError(f"{folder} lacks {sorted(missing)[0]}, which {index.name} names")
    return files


def _weight_files(folder: Path, files: list[Path]) -> list[Path]:
    """Return the safetensors among a folder's files. Raises UserError where there are none."""
    weights = [p for p in files if p.suffix == ".safetensors"]
    if weights:
        return weights
    if any(p.suffix in PICKLED for p in folder.iterdir()):
        raise UserError(
            f"{folder} has pickled weights only, which can run code: save them as safetensors first"
        )
    raise UserError(f"{folder} has no weights: expected *.safetensors beside config.json")
