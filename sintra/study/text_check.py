"""Decode and count a study's texts when it is opened, so that no step starts with one that can't
do.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from sintra.core.errors import UserError
from sintra.formats.checkpoint.tokens import count_tokens

PIECE = 1 << 20  # bytes that are decoded at once
WINDOWS = 2  # the fewest that a text is cut into
MOST_PER_TOKEN = 16  # bytes of a token that a text is trusted to stay below, on average
ENCODINGS = {codecs.BOM_UTF16_LE: "UTF-16", codecs.BOM_UTF16_BE: "UTF-16", b"\x1f\x8b": "gzip"}
FEW_NULS = 0.25  # share of NUL bytes from which a text is UTF-16 without its mark


def text_fault(path: Path) -> str | None:
    """Return what is wrong with a text, whatever model reads it; None where nothing is.

    It has to be UTF-8 and more than blanks.
    """
    decoder, blank = codecs.getincrementaldecoder("utf-8")(), True
    with path.open("rb") as file:
        piece = first = file.read(PIECE)
        if first.count(0) > FEW_NULS * len(first):
            return _other_encoding(codecs.BOM_UTF16_LE)
        try:
            while piece:
                blank = not decoder.decode(piece).strip("\ufeff \t\r\n\v\f") and blank
                piece = file.read(PIECE)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return _other_encoding(first)
    return ("holds nothing but blanks" if first else "is empty") if blank else None


def _other_encoding(head: bytes) -> str:
    """Return what a text that isn't UTF-8 is by its first bytes, and what to do."""
    kind = next((name for mark, name in ENCODINGS.items() if head.startswith(mark)), "")
    if kind == "gzip":
        return "is compressed (gzip): unpack it first"
    source = kind or "LATIN1"
    known = f" but {kind}" if kind else ""
    return f"isn't UTF-8{known}: convert it first (such as iconv -f {source} -t UTF-8)"


def length_fault(path: Path, context: int, tokenizer: Path | None) -> str | None:
    """Return that a text is too short for two windows; None where it is long enough, or only its
    model's own vocabulary can tell.

    context: tokens of a window; tokenizer: the folder of a checkpoint, where there is one.
    """
    need, size = WINDOWS * context, path.stat().st_size
    if size >= need * MOST_PER_TOKEN:
        return None
    least = "at least " if size < need else ""
    tokens = None if size < need else count_tokens(tokenizer, path.read_text(encoding="utf-8"))
    if size >= need and (tokens is None or tokens >= need):
        return None
    holds = f"{size} bytes" if tokens is None else f"{tokens} tokens"
    return (
        f"has {holds}, and two windows of {context} tokens (probe.context) need {least}"
        f"{need}: give a longer text"
    )


def refuse_text(role: str, path: Path, fault: str | None) -> None:
    """Raise UserError where there is a fault in a text."""
    if fault:
        raise UserError(f"texts.{role}: the file {path} {fault}")
