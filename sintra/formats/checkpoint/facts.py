"""What a model folder says of itself: sizes, ties, tokenizer, template, ends of turns, windows."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core.text import printable_line
from sintra.formats.checkpoint.config_values import (
    rope_scalings,
    sliding_window,
    text_part,
    whole,
)
from sintra.formats.checkpoint.folder import ModelFolder
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.model_kind import (
    SENSES,
    VOCABULARIES,
    architecture_name,
    is_tied,
    left_out,
)
from sintra.formats.checkpoint.vocabulary import embedding_rows, highest_token

TEMPLATE_FILES = ("chat_template.jinja", "chat_template.json", "tokenizer_config.json")
END_FILES = ("generation_config.json", "config.json")
OUTPUT = "lm_head.weight"


@dataclass(frozen=True)
class FolderFacts:
    """A checked folder in short texts."""

    architecture: str  # class and model_type
    parameters: int  # of the language model; a tied matrix counts once
    stored: str  # types of the weights, the most frequent first
    rows: int | None  # of the token embedding
    tied: bool  # whether the output matrix is the token embedding
    twice: bool  # whether it is saved twice all the same
    tokenizer: str  # its file, and its last token's number where the file says it
    template: str  # the file that has a chat template; "" for none
    ends: tuple[str, ...]  # tokens that end a text or turn, as the files name them
    begin: str  # begin of text, as the tokenizer's file names it; "" for none
    context: int  # tokens; 0 where it isn't said
    window: int  # of sliding attention, tokens; 0 for none
    rope: str  # kind of rope scaling; "" for none
    left_out: tuple[str, ...]  # parts that aren't the language model


def folder_facts(folder: Path, found: ModelFolder) -> FolderFacts:
    """Return what a checked folder says of itself. Raises UserError."""
    config, tensors = found.config, found.tensors
    text, tied = text_part(config), is_tied(config)
    own = {n: t for n, t in tensors.items() if not SENSES.search(n)}
    counted = [t["shape"] for n, t in own.items() if not (tied and n.endswith(OUTPUT))]
    kinds = Counter(t["dtype"] for t in own.values())
    tokens = _json(folder / "tokenizer_config.json")
    kind = printable_line(str(text.get("model_type")), 40)
    return FolderFacts(
        architecture=f"{architecture_name(config)} ({kind})",
        parameters=sum(math.prod(shape) for shape in counted),
        stored=", ".join(kind for kind, _ in kinds.most_common()),
        rows=embedding_rows(tensors),
        tied=tied,
        twice=tied and any(n.endswith(OUTPUT) for n in own),
        tokenizer=_tokenizer(folder, found),
        template=_template_file(folder, tokens),
        ends=tuple(dict.fromkeys(_ends(folder, tokens))),
        begin=_token(tokens.get("bos_token")),
        context=whole(text, "max_position_embeddings"),
        window=sliding_window(text),
        rope=_rope(text),
        left_out=tuple(f"{part} ({count} tensors)" for part, count in left_out(tensors).items()),
    )


def _tokenizer(folder: Path, found: ModelFolder) -> str:
    """Return the file that has the vocabulary, and its last token's number."""
    names = {path.name for path in found.files}
    name = next((n for n in VOCABULARIES if n in names), "of the model's own code")
    last = highest_token(folder)
    return f"{name}, ids up to {last.id}" if last else name


def _template_file(folder: Path, tokens: Mapping[str, Any]) -> str:
    """Return the file that has a chat template; "" where none has."""
    for name in TEMPLATE_FILES[:2]:
        if (folder / name).is_file():
            return name
    return TEMPLATE_FILES[2] if tokens.get("chat_template") else ""


def _ends(folder: Path, tokens: Mapping[str, Any]) -> Iterable[str]:
    """Yield the tokens that the files name as ends, by their text or number."""
    if eos := _token(tokens.get("eos_token")):
        yield eos
    for name in END_FILES:
        said = _json(folder / name).get("eos_token_id")
        for number in said if isinstance(said, list) else [said]:
            if type(number) is int:
                yield f"id {number} ({name})"


def _rope(text: Mapping[str, Any]) -> str:
    """Return the kind of rope scaling; "" where there is none."""
    kinds = (rope.kind for rope in rope_scalings(text))
    return next((printable_line(kind) for kind in kinds if kind != "default"), "")


def _token(entry: object) -> str:
    """Return a special token's text, printable; "" where there is none."""
    text = entry.get("content") if isinstance(entry, dict) else entry
    return printable_line(text)[:80] if isinstance(text, str) else ""


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is no such file."""
    return read_object(path) if path.is_file() else {}
