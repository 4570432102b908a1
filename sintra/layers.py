"""Which module of a transformers model became which tensor of its GGUF."""

from __future__ import annotations

from typing import Any


def gguf_names(model: Any, layout: dict[str, Any]) -> dict[str, str]:
    """Module name -> GGUF tensor name of every linear layer that the gguf package's map knows."""
    import gguf
    import torch

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout["architecture"])
    table = gguf.get_tensor_name_map(arch, layout["shape"]["layers"])
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    found = {n: table.get_name(n) for n in linear}
    return {n: f"{name}.weight" for n, name in found.items() if name}
