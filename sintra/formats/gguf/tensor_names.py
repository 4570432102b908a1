"""Map a transformers model's modules to the tensors of its GGUF, and renumber tensors of blocks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def expert_names(model: Any) -> dict[str, tuple[str, str, str]]:
    """Return module name -> GGUF tensor names (gate, up, down) of every bank of experts.

    A bank is a module with gate_up_proj (experts, 2 x inner, width), down_proj (experts, width,
    inner) and act_fn, called with the hidden states (tokens, width) and the chosen experts (tokens,
    k): what transformers 5 makes of most mixtures of experts.
    """
    banks = {}
    for name, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False))
        if (
            {"gate_up_proj", "down_proj"} <= set(parameters)
            and hasattr(module, "act_fn")
            and parameters["gate_up_proj"].dim() == 3
        ):
            block = next(int(part) for part in name.split(".") if part.isdigit())
            start = f"blk.{block}.ffn"
            banks[name] = (
                f"{start}_gate_exps.weight",
                f"{start}_up_exps.weight",
                f"{start}_down_exps.weight",
            )
    return banks


def gguf_names(model: Any, layout: Mapping[str, Any]) -> dict[str, str]:
    """Return module name -> GGUF tensor name of every linear layer in the gguf package's map.

    layout: a Layout of the model's GGUF.
    """
    import gguf  # loads numpy
    import torch  # not on the no-op path

    architecture = next(
        a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout["architecture"]
    )
    table = gguf.get_tensor_name_map(architecture, layout["shape"]["layers"])
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    names = {n: table.get_name(n) for n in linear}
    return {n: f"{name}.weight" for n, name in names.items() if name}


def renumber_block(block: int, dropped: list[int]) -> int:
    """Return the number that a remaining block has once the blocks `dropped` are left out.

    Blocks behind a gap move up.
    """
    return block - sum(d < block for d in dropped)


def renumber_tensor(name: str, dropped: list[int]) -> str | None:
    """Return a tensor's name once the blocks `dropped` are left out; None for their tensors."""
    parts = name.split(".")
    if parts[0] == "blk":
        block = int(parts[1])
        if block in dropped:
            return None
        parts[1] = str(renumber_block(block, dropped))
    return ".".join(parts)
