"""Put into a 16-bit GGUF what ends a turn, where llama.cpp doesn't know it, and leave out a chat
template that renders nothing.

Every variant inherits its metadata from this file. llama.cpp ends an answer at the token that the
file names as end of text and at some that it knows by name; a model's folder may have more in
generation_config.json, and a chat template may end turns by yet another token.
"""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from sintra.core.stage import PROGRESS_MARK, Context
from sintra.formats.chat.turns import TemplateReading, compile_error, read_template
from sintra.formats.gguf.chat_template import LEFT_OUT_KEY, TEMPLATE_KEY, read_chat_template
from sintra.formats.gguf.header import read_gguf_header
from sintra.formats.gguf.metadata_edit import Addition, copy_with_keys
from sintra.formats.runtime.llama_cpp import STOP_IDS_KEY, LlamaModel

END_KEYS = ("tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
TOKEN_FILES = ("tokenizer_config.json", "special_tokens_map.json")  # with eos_token, a text
ID_FILES = ("generation_config.json", "config.json")  # with eos_token_id, a number or several


def complete_metadata(context: Context, gguf: Path, folder: Path | None) -> None:
    """Write `gguf` anew where its metadata lack an end of turns, or its template renders nothing.

    folder: of the checkpoint that it was made from; None where there is none.
    """
    header, template = read_gguf_header(gguf), read_chat_template(gguf)
    reading = read_template(template, adds_bos=False) if template else TemplateReading()
    put: dict[str, Addition] = {}
    leave_out = broken_templates(gguf, set() if reading.works else {TEMPLATE_KEY})
    if not reading.works:
        put[LEFT_OUT_KEY] = reading.reason
        context.say(f"{PROGRESS_MARK}no chat template: {reading.reason}")
    if ends := unknown_ends(gguf, folder, reading.ending):
        free = [key for key in END_KEYS if key not in header.metadata]
        put |= dict(zip(free, ends, strict=False))
        put[STOP_IDS_KEY] = tuple(ends)
    if put or leave_out:
        part = gguf.with_suffix(".part")
        copy_with_keys(gguf, part, put, leave_out)
        part.replace(gguf)


def broken_templates(gguf: Path, known: set[str]) -> set[str]:
    """Return the keys of chat templates that no runtime can compile: `known`, and named ones."""
    header = read_gguf_header(gguf)
    named = [k for k in header.metadata if k.startswith(f"{TEMPLATE_KEY}.")]
    return known | {key for key in named if compile_error(header.text(key))}


def unknown_ends(gguf: Path, folder: Path | None, ending: str) -> list[int]:
    """Return the tokens that end a turn and that llama.cpp doesn't end an answer at.

    ending: what the chat template writes behind an assistant's words.
    """
    with closing(LlamaModel(gguf, 0, 1, vocab_only=True)) as model:
        ends = folder_ends(model, folder) if folder else []
        first = model.tokenize(ending.lstrip(), special=True)[:1].tolist()
        ends += [token for token in first if model.is_special(token)]
        return [t for t in dict.fromkeys(ends) if not model.is_end(t)]


def folder_ends(model: LlamaModel, folder: Path) -> list[int]:
    """Return the tokens that a checkpoint's files name as ends, those that the vocabulary has.

    What config.json says is often a default of the architecture's, and no token of ordinary text is
    believed on its word.
    """
    ids: list[int] = []
    for name in ID_FILES:
        for number in _numbers(_read(folder / name)):
            if not 0 <= number < model.vocabulary:
                continue
            if name != "config.json" or (model.is_special(number) and number != model.bos):
                ids.append(number)
    for name in TOKEN_FILES:
        entry = _read(folder / name).get("eos_token")
        text = entry.get("content") if isinstance(entry, dict) else entry
        tokens = model.tokenize(text, special=True).tolist() if isinstance(text, str) else []
        ids += tokens if len(tokens) == 1 else []
    return ids


def _numbers(config: dict[str, Any]) -> list[int]:
    """Return the end-of-text ids of a configuration, those of its text part included."""
    nested = config.get("text_config")
    values = [
        config.get("eos_token_id"),
        nested.get("eos_token_id") if isinstance(nested, dict) else None,
    ]
    flat = [x for value in values for x in (value if isinstance(value, list) else [value])]
    return [x for x in flat if type(x) is int]


def _read(path: Path) -> dict[str, Any]:
    """Return a JSON object; an empty one where there is none."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
