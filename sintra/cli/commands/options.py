"""`doit options`: what an option means, as the reference page has it."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from difflib import get_close_matches
from pathlib import Path

from sintra.config.option_docs import CHANGES, OptionDoc, matching, option_docs
from sintra.core.errors import UserError

WIDTH = 80


def show_options(root: Path, words: list[str], format: str) -> None:
    """Print the options whose name or meaning holds every word; all of them without a word.

    Raises UserError where there is none.
    """
    if format not in ("text", "json"):
        raise UserError(f"--format={format} isn't known: text or json")
    docs = option_docs(root)
    found = matching(docs, words)
    if not found:
        near = get_close_matches(" ".join(words), [doc.name for doc in docs], 1)
        hint = f"did you mean {near[0]!r}?" if near else "`doit options` lists them all"
        raise UserError(f"no option has {' '.join(words)!r} in its name or meaning: {hint}")
    if format == "json":
        print(json.dumps([asdict(doc) for doc in found], indent=1))
        return
    print("\n\n".join(format_option(doc) for doc in found))


def format_option(doc: OptionDoc) -> str:
    """Return an option within 80 columns: its name, its values, then what it means."""
    allowed = f"one of {doc.allowed}" if doc.type == "preset" else doc.allowed
    values = ", ".join(part for part in (doc.type, allowed, doc.unit) if part)
    lines = [
        f"{doc.name}  ({values}; default {doc.default})",
        doc.meaning,
        f"Example: {doc.example}",
        f"Changes: {CHANGES[doc.changes]}.",
    ]
    return "\n".join(
        textwrap.fill(
            line,
            WIDTH,
            initial_indent="    " if i else "",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for i, line in enumerate(lines)
    )
