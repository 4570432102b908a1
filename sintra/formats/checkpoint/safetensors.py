"""TODO."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError

WANTED = (
    r"(config|generation_config|quantize_config|special_tokens_map|added_tokens|vocab|preprocessor_config)\.json|tokenizer[\w.]*"
    r"|merges\.txt|chat_template\.\w+|[\w.-]+\.safetensors|[\w.-]+\.safetensors\.index\.json"
)


PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


MOST_HEADER = 100_000_000  # bytes; the format's own limit


WITH_MAP = ("config.json", "tokenizer_config.json", "preprocessor_config.json")


def wanted(name: str, code: bool = False) -> bool:
    """Whether a file of a model folder or repository belongs to the model: safetensors, tokenizer,
    configuration; with `code` also the Python files that come with it.
    """
    return re.fullmatch(WANTED, name) is not None or (
        code and re.fullmatch(r"\w+\.py", name) is not None
    )


def safetensors_header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file (8 bytes of length, then JSON). Raises UserError for a
    damaged file.
    """
    size = path.stat().st_size
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


def _is_tensor(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    sides, ends = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(sides, list) or not isinstance(ends, list) or len(ends) != 2:
        return False
    return all(type(n) is int and 0 <= n < 1 << 62 for n in [*sides, *ends]) and ends[0] <= ends[1]


def _within(folder: Path, path: Path) -> bool:
    """Whether a file really lies in its folder; in the hub's cache, snapshots/COMMIT/ links to
    blobs/ of the same model.
    """
    home, real = folder.resolve(), path.resolve()
    blobs = [home.parent.parent / "blobs"] if home.parent.name == "snapshots" else []
    return any(real.is_relative_to(place) for place in [home, *blobs])


def _object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that must hold an object. Raises UserError."""
    try:
        data = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON") from None
    if not isinstance(data, dict):
        raise UserError(f"{path} holds no JSON object")
    return data


def _shards(index: Path) -> set[str]:
    """The files that an index names. Raises UserError."""
    named = _object(index).get("weight_map")
    if not isinstance(named, dict) or not all(isinstance(n, str) for n in named.values()):
        raise UserError(f"{index} has no weight_map from tensors to files")
    return set(named.values())


def _own_code(folder: Path) -> None:
    """Refuse classes from another repository: what isn't in the folder isn't pinned. Raises
    UserError.
    """
    for path in (p for name in WITH_MAP if (p := folder / name).is_file()):
        for place in re.findall(
            r"[\w.-]+/[\w.-]+--[\w.-]+", json.dumps(_object(path).get("auto_map"))
        ):
            raise UserError(
                f"{path} names code of another repository ({place}), which isn't pinned: put the "
                "files beside it"
            )


def check_folder(folder: Path, code: bool = False) -> list[Path]:
    """The model's files, after a look at whether they can be a model; with `code` the Python files
    that come with it too. Raises UserError in one line.
    """
    if not folder.is_dir():
        raise UserError(f"there is no model folder {str(folder)!r}")
    files = sorted(p for p in folder.iterdir() if p.is_file() and wanted(p.name, code))
    for path in files:
        if not _within(folder, path):
            raise UserError(
                f"{path} is a link that leads out of its folder, to {path.resolve()}: put the "
                "file itself there"
            )
    weights = [p for p in files if p.suffix == ".safetensors"]
    if not weights:
        if any(p.suffix in PICKLED for p in folder.iterdir()):
            raise UserError(
                f"{folder} has pickled weights only, which can run code: save them as safetensors "
                "first"
            )
        raise UserError(f"{folder} has no weights: expected *.safetensors beside config.json")
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} has no config.json")
    _object(folder / "config.json")
    if code:
        _own_code(folder)
    for path in weights:
        safetensors_header(path)
    for index in (p for p in files if p.name.endswith(".index.json")):
        missing = _shards(index) - {p.name for p in files}
        if missing:
            raise UserError(f"{folder} lacks {sorted(missing)[0]}, which {index.name} names")
    return files
