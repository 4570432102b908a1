"""From safetensors to a 16-bit GGUF, by llama.cpp's converter in a process of its own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context, Stage
from sintra.formats.checkpoint.remote_code import isolated_environment
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.sizes import PRESET_BITS
from sintra.formats.runtime.quantizer import preset_types
from sintra.stages.turn_ends import complete_metadata

TYPES = {"f16": "F16", "bf16": "BF16", "f32": "F32"}  # model.convert -> ggml type


def run(context: Context) -> None:
    """Write model.gguf and layout.json; layout["presets"]: what stock presets would write.

    inputs: model (the checkpoint), toolchain (the converter). Raises UserError where the converter
    can't take the model, Transient where the disk is full.
    """
    kind, model = context.params["type"], context.inputs["model"]
    if kind not in TYPES:
        raise UserError(f"model.convert={kind} isn't known: use {', '.join(TYPES)}")
    out = context.out / "model.gguf"
    converter = context.inputs["toolchain"]
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
        raise_converter_error(done.stdout, json.loads((model / "config.json").read_text()))
    complete_metadata(context, out, model)
    layout = read_layout(out)
    if not any(t[1] == TYPES[kind] for t in layout["tensors"]):
        raise UserError(f"the converter wrote no {kind} tensor")
    layout["presets"] = preset_types(out, PRESET_BITS)
    context.write_json("layout.json", layout)


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


STAGE = Stage("convert", 3, run, tools=("transformers", "sentencepiece"))
