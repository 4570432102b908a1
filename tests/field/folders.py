"""Small model folders as people have them."""

import json
import shutil

import torch
from conftest import ROOT
from safetensors.torch import load_file, save_file


def edited(folder, **values):
    """The folder, with other values in its config.json; None removes one."""
    path = folder / "config.json"
    config = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in config.items() if v is not None}))
    return folder


def copied(source, target):
    """A copy of a model folder."""
    return shutil.copytree(source, target)


def tensors(folder):
    """The folder's tensors by name."""
    return load_file(folder / "model.safetensors")


def saved(folder, found, name="model.safetensors"):
    """The folder, with these tensors."""
    save_file({k: v.contiguous() for k, v in found.items()}, folder / name)
    return folder


def with_tokenizer_json(folder, tokens):
    """The folder with a tokenizer.json of the given texts in the place of its own."""
    (folder / "tokenizer.model").unlink()
    text = {
        "model": {"type": "BPE", "vocab": {t: i for i, t in enumerate(tokens)}},
        "added_tokens": [],
    }
    (folder / "tokenizer.json").write_text(json.dumps(text))
    return folder


def seeing(source, target):
    """A model with a vision tower and a projector, whose language model is that of a folder."""
    copied(source, target)
    config = json.loads((source / "config.json").read_text())
    sees = {"model_type": "clip_vision_model", "hidden_size": 24, "num_hidden_layers": 1}
    parts = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": "llava",
        "text_config": config,
        "vision_config": sees,
        "image_token_index": 5,
    }
    (target / "config.json").write_text(json.dumps(parts))
    found = {f"language_model.{name}": t for name, t in tensors(source).items()}
    found["vision_tower.vision_model.embeddings.class_embedding"] = torch.zeros(8)
    found["multi_modal_projector.linear_1.weight"] = torch.zeros(8, 8)
    return saved(target, found)


FABLE_MINI = ROOT / "models" / "fable_mini"
