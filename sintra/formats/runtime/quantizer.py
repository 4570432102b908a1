"""`llama_model_quantize` with plain arguments."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

from sintra.core.errors import Infeasible, Transient, nearest
from sintra.formats.gguf import header
from sintra.formats.runtime.llama_cpp import last_message, load_library

PREFIX = "LLAMA_FTYPE_MOSTLY_"


def file_types() -> dict[str, int]:
    """llama.cpp's file types by their usual name."""
    lib = load_library()
    return {n.removeprefix(PREFIX): getattr(lib, n) for n in dir(lib) if n.startswith(PREFIX)} | {
        "F32": 0
    }


def quantize(
    source: Path,
    target: Path,
    threads: int,
    *,
    kind: str = "F16",
    tensors: list[tuple[str, str]] | None = None,
    matrix: dict[str, Any] | None = None,
    drop: list[int] | None = None,
    copy: bool = False,
) -> None:
    """Write `target`. tensors: (regex, ggml type), the first match wins; matrix: tensor name ->
    importance vector.

    Raises Infeasible with llama.cpp's own words when it refuses, Transient when the disk is full.
    """
    header.read_gguf_header(source)
    lib, types = load_library(), file_types()
    if kind not in types:
        raise Infeasible("refused", f"{kind} is no file type of llama.cpp: {nearest(kind, types)}")
    params = lib.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.only_copy = threads, types[kind], copy
    alive: list[Any] = [_overrides(lib, tensors or []), _importance(lib, matrix or {})]
    if tensors:
        params.tt_overrides = alive[0]
    if matrix:
        params.imatrix = alive[1]
    if drop:
        alive.append((ctypes.c_int32 * (len(drop) + 1))(*sorted(drop), -1))
        params.prune_layers = alive[-1]
    if lib.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(params)):
        if "space" in last_message().lower() or "write" in last_message().lower():
            raise Transient(f"llama.cpp can't write {target.name}: {last_message()}")
        raise Infeasible("refused", f"llama.cpp can't make {kind}: {last_message()}")


def _overrides(lib: Any, tensors: list[tuple[str, str]]) -> Any:
    import gguf

    rows = (lib.llama_cpp.llama_model_tensor_override * (len(tensors) + 1))()
    for row, (pattern, name) in zip(rows, tensors, strict=False):
        row.pattern, row.type = pattern.encode(), int(gguf.GGMLQuantizationType[name])
    return rows


def _importance(lib: Any, matrix: dict[str, Any]) -> Any:
    rows = (lib.llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
    for row, (name, vector) in zip(rows, matrix.items(), strict=False):
        row.name, row.size = name.encode(), vector.size
        row.data = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return rows
