"""From safetensors to a 16-bit GGUF, by llama.cpp's converter in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from sintra.core import lazy
from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context, Stage
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.model_kind import is_tied
from sintra.formats.checkpoint.remote_code import isolated_environment
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.sizes import PRESET_BITS
from sintra.formats.runtime.quantizer import preset_types
from sintra.stages.converter import check_converter

if TYPE_CHECKING:
    from sintra.formats.gguf import leave_out
    from sintra.stages import turn_ends
else:  # the no-op path doesn't need them
    leave_out = lazy.module("sintra.formats.gguf.leave_out")
    turn_ends = lazy.module("sintra.stages.turn_ends")

MOST_WARNINGS, LONGEST_WARNING = 5, 200  # lines of the converter's that are shown, characters
# Warnings about what every model has: rope without scaling, a name that isn't a repository's.
HARMLESS = re.compile(r"Unknown RoPE type: default$|.*(model card|metadata)", re.IGNORECASE)
TYPES = {"f16": "F16", "bf16": "BF16", "f32": "F32"}  # model.convert -> ggml type


def run(context: Context) -> None:
    """Write model.gguf and layout.json; layout["presets"]: what stock presets would write.

    inputs: model (the checkpoint), toolchain (the converter, whose files are checked against their
    pins). Raises UserError where the converter can't take the model, Transient where the disk is
    full.
    """
    kind, model = context.params["type"], context.inputs["model"]
    if kind not in TYPES:
        raise UserError(f"model.convert={kind} isn't known: use {', '.join(TYPES)}")
    out = context.out / "model.gguf"
    converter = context.inputs["toolchain"]
    check_converter(converter)
    command = [
        sys.executable,
        str(converter / "convert_hf_to_gguf.py"),
        str(model),
        "--outfile",
        str(out),
        "--outtype",
        kind,
    ]
    # Python looks for modules beside the blob that the script's link leads to, so the folder is
    # named here. It asks transformers for tokenizers with trust_remote_code=True: without a network
    # and in an empty home there is no code but what lies in the folder, and that is there only
    # where the user said so (sintra.formats.checkpoint.remote_code).
    env = {
        **os.environ,
        "PYTHONPATH": str(converter),
        "PYTHONDONTWRITEBYTECODE": "1",
        **isolated_environment(context.out.parent / "home"),
    }
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, env=env
    )
    context.say(done.stdout)
    if done.returncode or not out.exists():
        raise_converter_error(done.stdout, read_object(model / "config.json"))
    if is_tied(read_object(model / "config.json")):
        leave_out_copy(context, out)
    turn_ends.complete_metadata(context, out, model)
    layout = read_layout(out)
    if not any(t[1] == TYPES[kind] for t in layout["tensors"]):
        raise UserError(f"the converter wrote no {kind} tensor")
    layout["presets"] = preset_types(out, PRESET_BITS)
    if warnings := converter_warnings(done.stdout):
        layout["warnings"] = warnings
    context.write_json("layout.json", layout)


def leave_out_copy(context: Context, path: Path) -> None:
    """Leave the output matrix out where it is the tied embedding, saved twice."""
    smaller = context.out / "smaller.gguf"
    if leave_out.without_equal_output(path, smaller):
        smaller.replace(path)
        context.say("the output matrix is the embedding once more: left out")


def converter_warnings(log: str) -> list[str]:
    """Return what the converter warned of: printable lines, the first few, without the harmless."""
    found = re.findall(r"^WARNING:[\w.-]+:(.+)$", log, re.MULTILINE)
    printable = (line.strip() for line in found if line.isprintable())
    lines = (line[:LONGEST_WARNING] for line in printable if not HARMLESS.match(line))
    return list(dict.fromkeys(lines))[:MOST_WARNINGS]


def raise_converter_error(log: str, config: Mapping[str, Any]) -> NoReturn:
    """Raise the converter's complaint in one line: UserError, or Transient for a full disk.

    log: what the converter wrote; config: the checkpoint's config.json.
    """
    name = (config.get("architectures") or ["none"])[0]
    last = next((x.strip() for x in reversed(log.splitlines()) if x.strip()), "no reason given")
    if "is not supported" in log:
        raise UserError(f"llama.cpp's converter doesn't know the architecture {name}")
    if re.search(r"contains custom code|does not appear to have a file named \S+\.py", log):
        raise UserError(
            f"this {name} needs Python code of its own: model.trust_remote_code=true runs it "
            "(docs/security.md)"
        )
    if "pre-tokenizer was not recognized" in log or "tokenizer" in last.lower():
        raise UserError(f"llama.cpp's converter refuses the tokenizer of this {name}: {last}")
    if "No space left" in log:
        raise Transient(
            "no space left on the disk: free some (`doit gc` helps) and run the same again"
        )
    raise UserError(f"llama.cpp's converter can't convert this {name}: {last}")


STAGE = Stage(
    "convert",
    3,
    run,
    tools=("transformers", "sentencepiece"),
    files=("model.gguf", "layout.json"),
    title="Convert to 16 bits",
)
