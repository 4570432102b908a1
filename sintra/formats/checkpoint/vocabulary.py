"""Compare a tokenizer's ids with the rows of the model's embedding."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sintra.core.errors import UserError
from sintra.formats.checkpoint.config_values import text_part
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.model_kind import SENSES
from sintra.formats.checkpoint.safetensors import TensorEntry

EMBEDDING = re.compile(
    r"(^|\.)(embed_tokens|wte|embed_in|word_embeddings|tok_embeddings|embeddings?)\.weight"
)


class Token(NamedTuple):
    """A token and its number."""

    id: int
    text: str

    def as_text(self) -> str:
        """Return it as text, which `parse` reads."""
        return json.dumps([self.id, self.text])

    @staticmethod
    def parse(text: str) -> Token:
        """Return what as_text wrote."""
        number, content = json.loads(text)
        return Token(number, content)


def embedding_rows(tensors: Mapping[str, TensorEntry]) -> int | None:
    """Return the rows of the token embedding; None where it isn't found."""
    rows = {
        entry["shape"][0]
        for name, entry in tensors.items()
        if EMBEDDING.search(name) and len(entry["shape"]) == 2 and not SENSES.search(name)
    }
    return rows.pop() if len(rows) == 1 else None


def highest_token(folder: Path) -> Token | None:
    """Return the token with the highest id; None where only sentencepiece has the vocabulary.

    Of ids beyond the embedding in such a vocabulary llama.cpp's converter leaves out the tokens.
    Raises UserError.
    """
    if (folder / "tokenizer.model").is_file():
        return None
    return max(_tokens(folder), default=None)


def _tokens(folder: Path) -> Iterator[Token]:
    """Yield the tokens of tokenizer.json, else of vocab.json and added_tokens.json."""
    if (folder / "tokenizer.json").is_file():
        found = read_object(folder / "tokenizer.json")
        model = found.get("model")
        vocabulary = model.get("vocab") if isinstance(model, dict) else None
        yield from _numbered(vocabulary)
        added = found.get("added_tokens")
        for row in added if isinstance(added, list) else ():
            if isinstance(row, dict):
                yield from _numbered({str(row.get("content")): row.get("id")})
        return
    for name in ("vocab.json", "added_tokens.json"):
        if (folder / name).is_file():
            yield from _numbered(read_object(folder / name))


def _numbered(vocabulary: Any) -> Iterator[Token]:
    """Yield the tokens of a vocabulary: text -> id, or a list of [text, score]."""
    if isinstance(vocabulary, dict):
        for text, number in vocabulary.items():
            if isinstance(number, int):
                yield Token(number, text)
    elif isinstance(vocabulary, list) and vocabulary:
        yield Token(len(vocabulary) - 1, str(vocabulary[-1])[:40])


def refuse_tokens_beyond(folder: Path, rows: int | None, last: Token | None) -> None:
    """Refuse a tokenizer with ids beyond the embedding's rows. Raises UserError."""
    if rows is None or last is None or last.id < rows:
        return
    raise UserError(
        f"{folder}: the tokenizer has a token {last.text[:40]!r} with id {last.id}, the embedding "
        f"has {rows} rows: save the model after resize_token_embeddings, or remove the token"
    )


def refuse_other_size(folder: Path, config: Mapping[str, Any], rows: int | None) -> None:
    """Refuse a config.json whose vocab_size isn't the embedding's rows. Raises UserError."""
    size = config.get("vocab_size", text_part(config).get("vocab_size"))
    if rows is not None and isinstance(size, int) and size != rows:
        raise UserError(
            f"{folder}: config.json says vocab_size {size}, the embedding has {rows} rows: one of "
            "them is of another model"
        )
