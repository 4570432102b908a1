"""Tell what a model folder holds, and refuse in one line what is no language model of 16 or 32
bits: adapters, quantized checkpoints, encoders, classifiers, parts of pipelines.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.formats.checkpoint.config_values import text_part
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.checkpoint.safetensors import TensorEntry

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = re.compile(r"adapter_model[\w.-]*\.safetensors")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "tekken.json")
CODED_VOCABULARY = re.compile(r"[\w.-]+\.tiktoken|tokenization_\w+\.py")  # by the model's own code
# Ends of class names that stand for another task, and what such a model does.
OTHER_TASKS = {
    "ForSequenceClassification": "classifies texts",
    "ForTokenClassification": "labels tokens",
    "ForQuestionAnswering": "marks answers in a text",
    "ForMultipleChoice": "chooses between texts",
    "ForMaskedLM": "fills gaps",
    "ForPreTraining": "fills gaps",
    "ForImageClassification": "classifies images",
    "ForObjectDetection": "finds objects in images",
    "ForCTC": "transcribes speech",
    "ForAudioClassification": "classifies sound",
    "RewardModel": "scores answers",
}
# Ends of class names that end in Model though they have an output layer.
NAMED_MODEL = ("ChatGLMModel", "BloomModel", "LMHeadModel")
# Stored types of weights that aren't quantized; whole numbers are buffers.
PLAIN = ("F64", "F32", "F16", "BF16", "I64", "I32", "BOOL")
# Ends of the names of tensors that belong to quantized matrices.
QUANTIZED_PARTS = (
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
    ".absmax",
    ".SCB",
)
# Parts of names of modules beside the language model, and what they see or hear.
SENSES = re.compile(
    r"(^|\.)(vision\w*|visual|image_newline|multi_modal_projector|mm_projector|audio\w*"
    r"|speech\w*|embed_vision|embed_audio|sound\w*|aligner)(\.|$)"
)


def refuse_adapter(folder: Path) -> None:
    """Refuse a folder with a LoRA adapter, alone or beside a model. Raises UserError."""
    config = folder / ADAPTER_CONFIG
    weights = [p.name for p in folder.iterdir() if ADAPTER_WEIGHTS.fullmatch(p.name)]
    if not config.is_file() and not weights:
        return
    base = read_object(config).get("base_model_name_or_path") if config.is_file() else None
    named = f" ({base})" if isinstance(base, str) and base.isprintable() and base else ""
    raise UserError(
        f"{folder} holds an adapter ({config.name if config.is_file() else weights[0]}), which "
        f"isn't a model by itself: merge it into its base model{named} with peft's "
        "merge_and_unload, and give the merged folder"
    )


def refuse_pipeline(folder: Path) -> None:
    """Refuse a pipeline of several models, or a part of one. Raises UserError."""
    config = folder / "config.json"
    name = read_object(config).get("_class_name") if config.is_file() else None
    if name or (folder / "model_index.json").is_file():
        raise UserError(
            f"{folder} is (a part of) a diffusion pipeline: Sintra compresses language models"
        )


def refuse_other_kinds(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorEntry],
    quantized: bool = False,
) -> None:
    """Refuse what isn't a language model of 16 or 32 bits.

    config: config.json; tensors: of all headers; quantized: whether it may be quantized already.
    Raises UserError.
    """
    refuse_other_task(folder, config)
    if not quantized:
        refuse_quantized(folder, config, tensors)


def refuse_other_task(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a model that doesn't write text token by token. Raises UserError."""
    name = architecture_name(config)
    does = next((does for end, does in OTHER_TASKS.items() if name.endswith(end)), None)
    if does:
        raise UserError(
            f"{folder} is a {name}, which {does}: a model that writes text (ForCausalLM) is wanted"
        )
    if config.get("is_encoder_decoder"):
        raise UserError(
            f"{folder} is a {name or 'model'} of encoder and decoder: a model with a decoder only "
            "(ForCausalLM) is wanted"
        )
    if not name:
        raise UserError(
            f"{folder}: config.json names no class under architectures: give the model's own, as "
            '["LlamaForCausalLM"]'
        )
    if name.endswith("Model") and not name.endswith(NAMED_MODEL):
        raise UserError(
            f"{folder} is a {name}, which has no output layer and writes no text: a "
            "ForCausalLM is wanted"
        )


def architecture_name(config: Mapping[str, Any]) -> str:
    """Return the class that config.json names; "" where it names none that can be shown."""
    names = config.get("architectures")
    name = names[0] if isinstance(names, list) and names else ""
    return name if isinstance(name, str) and re.fullmatch(r"\w{1,100}", name) else ""


def refuse_quantized(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorEntry]
) -> None:
    """Refuse a checkpoint that is quantized already. Raises UserError."""
    kind = quantization_method(folder, config) or quantized_tensor(tensors)
    if kind:
        raise UserError(
            f"{folder} is quantized already ({kind}): give the 16-bit model that it was made "
            "from, or a GGUF of it with model.requantize=true, which counts quality "
            "loss from there on"
        )


def quantization_method(folder: Path, config: Mapping[str, Any]) -> str | None:
    """Return how config.json, or auto-gptq's own file, says that a model is quantized."""
    said = config.get("quantization_config") or text_part(config).get("quantization_config")
    if not said:
        return "gptq" if (folder / "quantize_config.json").is_file() else None
    method = said.get("quant_method") if isinstance(said, dict) else None
    known = isinstance(method, str) and re.fullmatch(r"[\w-]{1,40}", method)
    return str(method) if known else "as config.json says"


def quantized_tensor(tensors: Mapping[str, TensorEntry]) -> str | None:
    """Return the first tensor that only a quantized checkpoint has, with its type."""
    for name, entry in tensors.items():
        if name.endswith(QUANTIZED_PARTS) or entry["dtype"] not in PLAIN:
            return f"{name[:100]!r} in {entry['dtype'][:20]}"
    return None


def refuse_no_tokenizer(folder: Path, names: Iterable[str]) -> None:
    """Refuse a folder without a tokenizer. Raises UserError. names: of the model's files."""
    found = set(names)
    coded = any(CODED_VOCABULARY.fullmatch(p.name) for p in folder.iterdir())
    if not coded and found.isdisjoint(VOCABULARIES):
        raise UserError(
            f"{folder} has no tokenizer: expected tokenizer.json or tokenizer.model beside the "
            "weights"
        )


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether config.json says that the output matrix is the token embedding.

    Gemma's is without its being said (transformers' default of that class).
    """
    text = text_part(config)
    said = config.get("tie_word_embeddings", text.get("tie_word_embeddings"))
    kind = text.get("model_type")
    return bool(isinstance(kind, str) and kind.startswith("gemma") if said is None else said)


def left_out(tensors: Mapping[str, TensorEntry]) -> dict[str, int]:
    """Return how many tensors of each part that isn't the language model, by the part's name."""
    found: dict[str, int] = {}
    for name in tensors:
        if match := SENSES.search(name):
            found[match[2]] = found.get(match[2], 0) + 1
    return found
