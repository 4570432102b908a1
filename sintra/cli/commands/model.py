"""`doit check-model`: what a model is, before and after it was converted."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintra.core.artifact import GGUF_FILE, Artifact
from sintra.core.errors import UserError
from sintra.core.text import printable_line
from sintra.formats.checkpoint.facts import FolderFacts, folder_facts
from sintra.formats.checkpoint.folder import check_folder
from sintra.formats.gguf.chat_template import ChatFormat, read_chat_format
from sintra.formats.gguf.layout import Layout, read_layout
from sintra.results.conversion import conversion_json, conversion_words, warning_words
from sintra.results.result import original_layout
from sintra.study.json_types import ConversionJson
from sintra.study.workspace import Workspace

WIDTH = 17  # characters of the first column
Line = tuple[str, str]  # what it is about, and what is to be said


def check(workspace: Workspace, format: str) -> None:
    """Print what the study's model is. Raises UserError where it can't be one."""
    pin = workspace.pinned()
    if pin is None:
        raise UserError(
            f"{workspace.study.model} hasn't been downloaded: run `doit optimize` first, or give "
            "a folder"
        )
    path, facts = Path(pin.locator), facts_of(workspace)
    gguf = path if pin.kind == "gguf" else converted_file(workspace)
    chat = read_chat_format(gguf) if gguf else None
    layout = read_layout(gguf) if gguf else None
    found = conversion_json(workspace.graph(), workspace.store)
    if format == "json":
        print(json.dumps(as_json(facts, layout, chat, found), indent=1))
        return
    lines = [("model", printable_line(str(path)))]
    lines += folder_lines(facts) if facts else []
    lines += gguf_lines(layout) if layout and not facts else []
    lines += chat_lines(chat) if chat else []
    lines += carried_lines(workspace, found, facts)
    print("\n".join(f"{name:<{WIDTH}}{text}" for name, text in lines))


def facts_of(workspace: Workspace) -> FolderFacts | None:
    """Return what the model's folder says of itself; None where the model is no local folder."""
    pin = workspace.pinned()
    if pin is None or pin.kind != "folder":
        return None
    path = Path(pin.locator)
    return folder_facts(path, check_folder(path, workspace.study.trust_remote_code))


def brief_lines(workspace: Workspace) -> list[str]:
    """Return a folder's facts in a line, and what is left out of it in another."""
    facts = facts_of(workspace)
    if facts is None:
        return []
    text = dict(folder_lines(facts))
    names = ("architecture", "parameters", "tokenizer")
    line = f"model: {', '.join(text[name] for name in names)}, context {text['context']}"
    return [line, *left_out_lines(facts)]


def left_out_lines(facts: FolderFacts) -> list[str]:
    """Return which parts aren't the language model, in a line; nothing where there are none."""
    return [f"left out: {', '.join(facts.left_out)}"] if facts.left_out else []


def converted_file(workspace: Workspace) -> Path | None:
    """Return the 16-bit GGUF; None where it hasn't been made."""
    outcome = workspace.graph().convert().outcome(workspace.store)
    if not isinstance(outcome, Artifact):
        return None
    digest = next((file.sha256 for file in outcome.files if file.path == GGUF_FILE), None)
    return workspace.store.blob_path(digest) if digest else None


def folder_lines(facts: FolderFacts) -> list[Line]:
    """Return what a folder says of itself."""
    tied = "tied: it is the output matrix too" if facts.tied else "not tied"
    if facts.twice:
        tied += ", and saved twice: the GGUF has it once"
    context = f"{facts.context} tokens" if facts.context else "not said"
    if facts.window:
        context += f", a sliding window of {facts.window}"
    if facts.rope:
        context += f", rope scaling {facts.rope}"
    return [
        ("architecture", facts.architecture),
        ("parameters", f"{facts.parameters / 1e6:.1f} M, stored as {facts.stored}"),
        ("embedding", f"{facts.rows or 'unknown'} rows, {tied}"),
        ("tokenizer", facts.tokenizer),
        ("chat template", facts.template or "none"),
        ("begin of text", facts.begin or "none"),
        ("ends", ", ".join(facts.ends) or "none named"),
        ("context", context),
        ("left out", ", ".join(facts.left_out) or "nothing"),
    ]


def gguf_lines(layout: Layout) -> list[Line]:
    """Return what a GGUF that is the model says of itself."""
    shape = layout["shape"]
    window = f", a sliding window of {shape['window']}" if "window" in shape else ""
    return [
        ("architecture", layout["architecture"]),
        ("parameters", f"{shape['parameters'] / 1e6:.1f} M"),
        ("embedding", f"{shape['vocabulary']} rows, {'tied' if shape['tied'] else 'not tied'}"),
        ("context", f"{layout['context']} tokens{window}"),
    ]


def chat_lines(chat: ChatFormat) -> list[Line]:
    """Return how llama.cpp reads conversations."""
    template = "taken apart into turns" if chat.turns else f"no template of turns: {chat.reason}"
    ends = ", ".join(map(printable_line, chat.stop)) or "none"
    return [("llama.cpp reads", f"{template}; an answer ends at {ends}")]


def carried_lines(
    workspace: Workspace, found: ConversionJson | None, facts: FolderFacts | None
) -> list[Line]:
    """Return whether the GGUF is the model."""
    layout = original_layout(workspace.graph(), workspace.store)
    warnings = layout.get("warnings") if layout else None
    lines = [("converted", warning_words(warnings))] if warnings else []
    if found:
        return [*lines, ("compared", conversion_words(found))]
    if facts is None:
        return lines
    return [*lines, ("compared", "not yet: the first step behind the conversion does it")]


def as_json(
    facts: FolderFacts | None,
    layout: Layout | None,
    chat: ChatFormat | None,
    found: ConversionJson | None,
) -> dict[str, Any]:
    """Return everything as JSON."""
    return {
        "folder": asdict(facts) if facts else None,
        "gguf": {k: layout[k] for k in ("architecture", "shape", "context")} if layout else None,
        "chat": {"turns": bool(chat.turns), "reason": chat.reason, "stop": list(chat.stop)}
        if chat
        else None,
        "conversion": found,
    }
