"""Read published llama-bench points from a CSV of (device, model, quantization, tokens/s).

Columns: profile, backend, device, model, params_b (10^9), n_layer, d_model, vocab, tied (0 or 1),
n_kv_head, head_dim, quant, size_gib, pp_tps, tg_tps, source. published_tps.csv is the copy that the
profiles are fitted on; each row names its public source.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from sintra.core.errors import UserError
from sintra.formats.gguf.sizes import BLOCK_BITS

PUBLISHED = Path(__file__).with_name("published_tps.csv")
# Rows name the machine; where a profile stands for it under another name.
PROFILES = {"laptop_i5_1135g7": "laptop"}
NEEDED = (
    "profile",
    "backend",
    "params_b",
    "n_layer",
    "d_model",
    "vocab",
    "tied",
    "n_kv_head",
    "head_dim",
    "quant",
    "size_gib",
    "tg_tps",
)
CONTEXT = 64  # tokens in the cache on average while llama-bench generates its 128
UNIFORM = 0.29  # standard deviation of a number rounded to a unit


@dataclass(frozen=True)
class SpeedPoint:
    """Hold one published speed."""

    profile: str  # name in conf/hardware
    backend: str  # cpu, cuda, metal, vulkan, opencl
    device: str  # the machine, as published: a variant of the profile's device
    model: str  # as published
    kind: str  # the file's quantization
    layers: int  # blocks
    weights: float  # that a token reads
    read: float  # bytes of weights and KV cache that a token reads
    bandwidth: float  # theoretical, of the memory, bytes/s
    tps: float  # decoding, tokens/s
    pp: float | None  # prompt processing, tokens/s
    rounding: float  # relative standard deviation that the published digits leave
    source: str = ""  # where it was published


def embedding_bits(kind: str) -> float:
    """Return the bits per weight of a token embedding in a file of this quantization.

    They are the base type's (llama.cpp, src/llama-quant.cpp).
    """
    return {"F16": 16.0, "BF16": 16.0, "F32": 32.0}.get(kind, BLOCK_BITS.get(kind, 4.5))


def read_points(path: Path, bandwidths: dict[str, float]) -> tuple[list[SpeedPoint], list[str]]:
    """Read the points of a CSV with a decode speed, and a line for each row that can't be used.

    bandwidths: bytes/s by profile. Raises UserError for a file that isn't such a table.
    """
    points, skipped = [], []
    for number, row in enumerate(_read_rows(path), 2):
        profile = PROFILES.get(row["profile"], row["profile"])
        if not (row["tg_tps"] or "").strip():
            continue
        if profile not in bandwidths:
            skipped.append(f"line {number}: no profile {profile!r}, so no bandwidth is known")
            continue
        try:
            points.append(point_of_row(row, profile, bandwidths[profile]))
        except (ValueError, TypeError, ZeroDivisionError) as error:
            raise UserError(f"{path}, line {number}: {error}") from None
    return points, skipped


def _read_rows(path: Path) -> list[dict[str, str]]:
    """Read the CSV's rows. Raises UserError where it has none, or lacks a column."""
    try:
        with path.open(newline="") as handle:
            rows = list(csv.DictReader(handle))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read as CSV: {error}") from None
    missing = [c for c in NEEDED if rows and c not in rows[0]]
    if not rows or missing:
        raise UserError(
            f"{path}: {'no rows' if not rows else 'no column ' + ', '.join(missing)}; wanted are "
            f"{', '.join(NEEDED)}"
        )
    return rows


def point_of_row(row: dict[str, str], profile: str, bandwidth: float) -> SpeedPoint:
    """Return the point of a row; bandwidth in bytes/s. Raises ValueError.

    An untied embedding isn't read (one row of it is), so its bytes and weights don't count.
    """
    layers, heads, width = int(row["n_layer"]), int(row["n_kv_head"]), int(row["head_dim"])
    embedding = int(row["vocab"]) * int(row["d_model"]) if int(row["tied"]) == 0 else 0
    size = float(row["size_gib"]) * 2**30 - embedding * embedding_bits(row["quant"]) / 8
    text = row["tg_tps"].strip()
    tps = float(text)
    if tps <= 0 or size <= 0:
        raise ValueError("tg_tps and size_gib must be above 0")
    digits = len(text.split(".")[1]) if "." in text else 0
    return SpeedPoint(
        profile=profile,
        backend=row["backend"],
        device=row.get("device") or profile,
        model=row.get("model") or "",
        kind=row["quant"],
        layers=layers,
        weights=float(row["params_b"]) * 1e9 - embedding,
        read=size + 2 * layers * CONTEXT * heads * width * 2,
        bandwidth=bandwidth,
        tps=tps,
        pp=float(row["pp_tps"]) if (row.get("pp_tps") or "").strip() else None,
        rounding=UNIFORM * 10**-digits / tps,
        source=row.get("source") or "",
    )
