"""`doit explain`: what any GGUF is, and with `model=` what its types cost, beside stock presets."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintra.build.run_state import say
from sintra.config.quoting import user_path
from sintra.core.errors import Infeasible, UserError
from sintra.core.text import printable_line
from sintra.formats.gguf.chat_template import read_chat_format
from sintra.formats.gguf.description import GgufDescription, read_description
from sintra.results.file_comparison import MeasuredFile, beaten_by, measure_files
from sintra.study.workspace import open_workspace

WIDTH, LABEL = 80, 17  # characters of a line, and of its first column
NAME = 26  # characters of a file's name in a table


def explain_files(root: Path, overrides: list[str], format: str, files: list[str]) -> None:
    """Print what files are. Raises UserError for what is no sound GGUF, before anything is run."""
    if format not in ("text", "json"):
        raise UserError(f"--format={format} isn't known: text or json")
    if not files:
        raise UserError("name a GGUF, or several: doit explain FILE.gguf")
    if overrides and not any(o.startswith("model=") for o in overrides):
        raise UserError(
            f"{overrides[0]} says nothing without model=FOLDER, the 16-bit model that the files "
            "are compared with"
        )
    described = [read_description(root / user_path(name)) for name in files]
    workspace = open_workspace(root, overrides) if overrides else None
    measured = measure_files(workspace, described, say) if workspace else []
    if format == "json":
        rows = [as_json(file) for file in described]
        print(json.dumps({"files": rows, "measured": measured_json(measured)}, indent=1))
        return
    print(table(described) if len(described) > 1 else "\n".join(lines_of(described[0])))
    if workspace:
        text = printable_line(workspace.study.texts.paths["report"])
        print("\n" + "\n".join(measured_lines(measured, workspace.study.model, text)))


def template_words(file: GgufDescription) -> str:
    """Return what the chat template is, and how llama.cpp's vocabulary fits it."""
    try:
        chat = read_chat_format(file.path)
    except (Infeasible, ValueError) as error:
        return f"{file.template} characters; not read: {printable_line(str(error), 200)}"
    ends = ", ".join(printable_line(text, 40) for text in chat.stop) or "none"
    if not file.template:
        return f"none; an answer ends at {ends}"
    reading = "taken apart into turns" if chat.turns else f"no turns: {chat.reason}"
    return f"{file.template} characters, {printable_line(reading, 200)}; an answer ends at {ends}"


def tokenizer_words(file: GgufDescription) -> str:
    """Return what the tokenizer is."""
    facts = file.tokenizer
    if not facts.tokens:
        return "none"
    pre = f" ({facts.pre})" if facts.pre else ""
    special = "".join(f", {name} {text}" for name, text in facts.special.items())
    return f"{facts.model or 'not named'}{pre}, {facts.tokens} tokens{special}"


def lines_of(file: GgufDescription) -> list[str]:
    """Return all that there is to say of one file."""
    context = f", context {file.context}" if file.context else ""
    shares = ", ".join(f"{kind} {share:.1%}" for kind, share in file.share_by_type().items())
    head = {
        "file": f"{file.file}, {format_bytes(file.bytes)}",
        "architecture": f"{file.architecture}, {file.blocks} blocks{context}",
        "name": file.title or "not said",
        "parameters": f"{file.parameters / 1e6:.1f} M at {file.bits:.2f} bits each",
        "says it is": file.declared or "nothing",
        "weights": shares,
        "tokenizer": tokenizer_words(file),
        "chat template": template_words(file),
    }
    indent = " " * LABEL
    lines = [
        textwrap.fill(f"{label:<{LABEL}}{text}", WIDTH, subsequent_indent=indent)
        for label, text in head.items()
    ]
    lines += ["", f"{'matrices':<{LABEL}}type and its blocks", *kind_lines(file)]
    if file.blocks:
        lines += ["", f"{'blocks':<{LABEL}}bits  matrices", *block_lines(file)]
    return [*lines, "", "metadata", *metadata_lines(file)]


def kind_lines(file: GgufDescription) -> list[str]:
    """Return a line for each kind of matrix, and one for norms and biases."""
    lines = []
    for kind, types in file.types_by_kind().items():
        parts = [f"{name} {ranges(blocks)}".strip() for name, blocks in types.items()]
        lines.append(f"{kind:<{LABEL - 1}} {'; '.join(parts)}")
    vectors = ", ".join(f"{count} {kind}" for kind, count in file.vectors().items())
    return [*lines, *([f"{'norms, biases':<{LABEL}}{vectors}"] if vectors else [])]


def block_lines(file: GgufDescription) -> list[str]:
    """Return a line for each run of blocks with the same types."""
    groups: dict[tuple[tuple[str, int], ...], list[int]] = {}
    for block, types in file.types_by_block().items():
        groups.setdefault(tuple(sorted(types.items())), []).append(block)
    return [
        f"{ranges(blocks):<{LABEL - 1}} {file.block_bits(blocks[0]):.2f}  "
        + ", ".join(f"{count} {kind}" for kind, count in types)
        for types, blocks in groups.items()
    ]


def metadata_lines(file: GgufDescription) -> list[str]:
    """Return a line for each value of the metadata."""
    return [
        f"  {key:<40} {f'{value:.6g}' if isinstance(value, float) else value}"
        for key, value in file.metadata.items()
    ]


def ranges(numbers: list[int]) -> str:
    """Return ascending numbers as `0-3,7`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def format_bytes(size: int) -> str:
    """Return a size in MB or GB of 10^6 and 10^9 bytes."""
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.2f} MB"


def short(name: str) -> str:
    """Return a file's name for a table."""
    return name if len(name) <= NAME else f"{name[: NAME - 3]}..."


def table(files: list[GgufDescription]) -> str:
    """Return several files, the smallest first, a line each."""
    lines = [f"{'file':<{NAME}}{'MB':>10}{'bits':>6}  {'says':<9}{'template':<9}weights"]
    for file in sorted(files, key=lambda f: f.bytes):
        shares = [f"{kind} {share:.0%}" for kind, share in file.share_by_type().items()]
        line = (
            f"{short(file.file):<{NAME}}{file.bytes / 1e6:>10.2f}{file.bits:>6.2f}  "
            f"{file.declared or '-':<9}{'yes' if file.template else 'none':<9}"
            f"{', '.join(shares[:2])}"
        )
        lines.append(line[:WIDTH])
    return "\n".join(lines)


def measured_lines(rows: list[MeasuredFile], model: str, text: str) -> list[str]:
    """Return the damage of each file beside stock presets, the smallest first."""
    lines = [f"{'file':<{NAME}}{'MB':>10}  {'KLD (nats)':<18}{'top %':>6}  clearly better"]
    for row in rows:
        better = beaten_by(row, rows)
        kld = f"{row.kld:.5f} +-{row.kld_error:.5f}"
        lines.append(
            f"{short(row.name):<{NAME}}{row.bytes / 1e6:>10.2f}  {kld:<18}"
            f"{100 * row.same_top:>6.1f}  {short(better.name) if better else '-'}"
        )
    return [
        *lines,
        f"against {printable_line(model)} in 16 bits on {text}; +- standard error; clearly better:",
        "no larger, and nearer by two standard errors of the paired difference",
    ]


def as_json(file: GgufDescription) -> dict[str, Any]:
    """Return a file for JSON."""
    return {
        "file": file.file,
        "bytes": file.bytes,
        "architecture": file.architecture,
        "name": file.title,
        "declared": file.declared,
        "parameters": file.parameters,
        "bits": file.bits,
        "context": file.context,
        "tokenizer": asdict(file.tokenizer),
        "template": template_words(file),
        "types": {tensor.name: tensor.type for tensor in file.tensors},
        "blocks": file.types_by_block(),
        "metadata": file.metadata,
    }


def measured_json(rows: list[MeasuredFile]) -> list[dict[str, Any]]:
    """Return what was measured for JSON; better: what is no larger and clearly nearer."""
    return [
        row.as_json() | {"better": better.name if (better := beaten_by(row, rows)) else None}
        for row in rows
    ]
