"""Call llama.cpp's `llama_model_quantize` with plain arguments."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible, Transient, nearest
from sintra.formats.gguf import header
from sintra.formats.runtime.llama_cpp import last_message, load_library, recorded_log

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Importance = dict[str, NDArray[np.float32]]  # tensor -> importance of each input column
else:
    np = lazy.module("numpy")

PREFIX = "LLAMA_FTYPE_MOSTLY_"
# A matrix in a dry run's log: "[ 2/272] NAME - [ 576, 49152, 1, 1], type = f16, size = 54.00 MiB ->
# 28.69 MiB (q8_0)".
WRITTEN = re.compile(r"\] (\S+)\s+- \[[\d, ]+\], type = [^\[]*?-> +[\d.]+ MiB \((\w+)\)")

# Types that ggml quantizes by an importance matrix alone (ggml_quantize_requires_imatrix).
WEIGHTED = ("IQ2_XXS", "IQ2_XS", "IQ1_S")
UNASKED = ("token_embd.weight", "per_layer_token_embd.weight")  # see `with_embedding`


def file_types() -> dict[str, int]:
    """Return the number of each of llama.cpp's file types by its usual name, as "Q4_K_M"."""
    library = load_library()
    names = [n for n in dir(library) if n.startswith(PREFIX)]
    return {n.removeprefix(PREFIX): getattr(library, n) for n in names} | {"F32": 0}


def quantize(
    source: Path,
    target: Path,
    threads: int,
    *,
    kind: str = "F16",
    tensors: list[tuple[str, str]] | None = None,
    matrix: Importance | None = None,
    drop: list[int] | None = None,
    copy: bool = False,
    requantize: bool = False,
) -> None:
    """Write `target`, the model in `source` quantized to a file type.

    kind: the file type; tensors: (regex, ggml type), of which the first match wins; matrix: tensor
    name -> importance of each input column; drop: blocks to leave out; copy: keep every tensor's
    type; requantize: take quantized tensors too. Raises Infeasible with llama.cpp's own words when
    it refuses, Transient when the disk is full.
    """
    stored = header.read_gguf_header(source).tensors
    library, types = load_library(), file_types()
    if kind not in types:
        raise Infeasible(
            "refused", f"{kind} is not a file type of llama.cpp: {nearest(kind, types)}"
        )
    matrix = with_embedding(stored, tensors or [], matrix or {})
    params = library.llama_model_quantize_default_params()
    params.nthread, params.ftype, params.only_copy = threads, types[kind], copy
    params.allow_requantize = requantize
    # ctypes does not keep the arrays alive that params points to
    overrides = _type_overrides(library, tensors or [])
    importance = _importance_rows(library, matrix)
    dropped = (ctypes.c_int32 * (len(drop or []) + 1))(*sorted(drop or []), -1)
    if tensors:
        params.tt_overrides = overrides
    if matrix:
        params.imatrix = importance
    if drop:
        params.prune_layers = dropped
    if library.llama_model_quantize(
        str(source).encode(), str(target).encode(), ctypes.byref(params)
    ):
        if "space" in last_message().lower() or "write" in last_message().lower():
            raise Transient(f"llama.cpp can't write {target.name}: {last_message()}")
        raise Infeasible("refused", f"llama.cpp can't make {kind}: {last_message()}")


def with_embedding(
    stored: Iterable[header.TensorInfo], tensors: list[tuple[str, str]], matrix: Importance
) -> Importance:
    """Return the importance matrix with one more row of equal weights where ggml needs one.

    That is the embedding's, which no calibration measures: llama.cpp quantizes it without asking
    for its importance, and types that need some end the process. tensors: (regex, ggml type).
    Raises Infeasible where there is no matrix at all.
    """
    added: Importance = {}
    for tensor in stored:
        kind = next((t for pattern, t in tensors if re.search(pattern, tensor.name)), None)
        if tensor.name in UNASKED and kind in WEIGHTED and tensor.name not in matrix:
            if not matrix:
                raise Infeasible("refused", f"{tensor.name}: {kind} needs an importance matrix")
            added[tensor.name] = np.ones(tensor.shape[0], np.float32)
    return matrix | added


def preset_types(source: Path, presets: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return preset -> matrix -> the type that llama.cpp would write, by a dry run.

    Presets that it refuses are left out.
    """
    library, types = load_library(), file_types()
    header.read_gguf_header(source)
    found = {}
    for preset in presets:
        params = library.llama_model_quantize_default_params()
        params.nthread, params.ftype, params.dry_run = 1, types[preset], True
        target = source.with_name("never-written.gguf")
        with recorded_log() as lines:
            failed = library.llama_model_quantize(
                str(source).encode(), str(target).encode(), ctypes.byref(params)
            )
        if not failed:
            found[preset] = _written_types(lines)
    return found


def _written_types(lines: Iterable[str]) -> dict[str, str]:
    """Return matrix -> type from a dry run's log, in ggml's spelling of its enumeration."""
    import gguf  # loads numpy

    by_name = {name.lower(): name for name in gguf.GGMLQuantizationType.__members__}
    rows = WRITTEN.findall(" ".join(lines))
    return {name: by_name[kind.lower()] for name, kind in rows if kind.lower() in by_name}


def _type_overrides(library: Any, tensors: list[tuple[str, str]]) -> Any:
    """Return (regex, ggml type) pairs as llama.cpp's array, which ends with an empty entry."""
    import gguf  # loads numpy

    rows = (library.llama_cpp.llama_model_tensor_override * (len(tensors) + 1))()
    for row, (pattern, name) in zip(rows, tensors, strict=False):
        row.pattern, row.type = pattern.encode(), int(gguf.GGMLQuantizationType[name])
    return rows


def _importance_rows(library: Any, matrix: Importance) -> Any:
    """Return an importance matrix as llama.cpp's array, which ends with an empty entry."""
    rows = (library.llama_cpp.llama_model_imatrix_data * (len(matrix) + 1))()
    for row, (name, vector) in zip(rows, matrix.items(), strict=False):
        row.name, row.size = name.encode(), vector.size
        row.data = vector.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return rows
