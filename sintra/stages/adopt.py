"""A GGUF as the source of a study: the 16-bit file itself, and a checkpoint for transformers.

A file of 16 or 32 bits is taken as it is. A quantized one is decoded into 16 bits, where the user
said that its damage is the starting point (model.requantize=true).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.artifact import GGUF_FILE
from sintra.core.errors import Infeasible, UserError
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import Layout, read_layout
from sintra.formats.gguf.original import quantized_type
from sintra.formats.gguf.sizes import PRESET_BITS, UNQUANTIZED
from sintra.formats.runtime import quantizer
from sintra.store.files import link_or_copy

if TYPE_CHECKING:
    from sintra.stages import turn_ends
else:  # the no-op path doesn't need it
    turn_ends = lazy.module("sintra.stages.turn_ends")

torch = lazy.module("torch")


def run(context: Context) -> None:
    """Write model.gguf, of which every matrix has 16 or 32 bits, and layout.json.

    layout["presets"]: what stock presets would write. inputs: file (the user's GGUF, as
    model.gguf). Raises Infeasible where llama.cpp can't decode it, UserError where it lacks what a
    model needs.
    """
    source, out = context.inputs["file"] / GGUF_FILE, context.out / GGUF_FILE
    try:
        layout = read_layout(source)
    except (ValueError, KeyError) as error:
        raise UserError(f"{source.name} is not a model that can be read: {error}") from None
    kind = quantized_type(layout)
    if kind is None:
        link_or_copy(source.resolve(), out)
    else:
        context.say(f"decoding {kind} and other types into F16")
        quantizer.quantize(source, out, context.threads, kind="F16", requantize=True)
    turn_ends.complete_metadata(context, out, None)
    if kind is not None:
        layout = read_layout(out)
        layout["decoded"] = kind
    layout["presets"] = quantizer.preset_types(out, PRESET_BITS)
    context.write_json("layout.json", layout)


def unpack(context: Context) -> None:
    """Write config.json and model.safetensors, as transformers reads them from inputs["gguf"].

    Raises Infeasible for an architecture that transformers can't read from a GGUF.
    """
    import transformers  # slow to import

    folder = context.inputs["gguf"]
    layout = read_layout(folder / GGUF_FILE)
    dtype = torch_type(layout)
    loader: Any = transformers.AutoModelForCausalLM
    try:
        model = loader.from_pretrained(
            folder,
            gguf_file=GGUF_FILE,
            dtype=torch.float32,
            trust_remote_code=False,
            use_safetensors=True,
        )
        config = transformers.AutoConfig.from_pretrained(
            folder, gguf_file=GGUF_FILE, trust_remote_code=False
        )
    except (ValueError, KeyError, NotImplementedError) as error:
        first = (str(error).splitlines() or ["no reason given"])[0]
        raise Infeasible(
            "unsupported",
            f"transformers can't read a {layout['architecture']} from a GGUF ({first}): give its "
            "folder of safetensors, or planner.rounding=nearest",
        ) from None
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    # the loaded model refuses another type
    plain = loader.from_config(config, trust_remote_code=False)
    plain.load_state_dict(model.state_dict())
    plain.to(dtype).save_pretrained(context.out)


def torch_type(layout: Layout) -> Any:
    """Return torch's type for what most bytes of a file have."""
    sizes = dict.fromkeys(UNQUANTIZED, 0)
    for _, kind, size, shape in layout["tensors"]:
        if len(shape) > 1:
            sizes[kind] += size
    names = {"F16": "float16", "BF16": "bfloat16", "F32": "float32"}
    return getattr(torch, names[max(sizes, key=lambda kind: sizes[kind])])


STAGE = Stage("adopt", 3, run, tools=("llama-cpp-python",), files=("model.gguf", "layout.json"))
UNPACK = Stage("unpack", 1, unpack, tools=("transformers", "torch"), files=("config.json",))
