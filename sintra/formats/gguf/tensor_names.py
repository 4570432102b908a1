"""Which module of a transformers model became which tensor of its GGUF."""

from __future__ import annotations

from typing import Any


def expert_names(model: Any) -> dict[str, tuple[str, str, str]]:
    """Module name -> GGUF tensor names (gate, up, down) of every bank of experts.

    A bank is a module with gate_up_proj (experts, 2 x inner, width), down_proj (experts, width,
    inner) and act_fn, called with the hidden states (tokens, width) and the chosen experts (tokens,
    k): what transformers 5 makes of most mixtures of experts.
    """
    found = {}
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if (
            {"gate_up_proj", "down_proj"} <= set(own)
            and hasattr(module, "act_fn")
            and own["gate_up_proj"].dim() == 3
        ):
            block = next(int(part) for part in name.split(".") if part.isdigit())
            found[name] = tuple(
                f"blk.{block}.ffn_{part}_exps.weight" for part in ("gate", "up", "down")
            )
    return found  # type: ignore[return-value]


def gguf_names(model: Any, layout: dict[str, Any]) -> dict[str, str]:
    """Module name -> GGUF tensor name of every linear layer that the gguf package's map knows."""
    import gguf
    import torch

    arch = next(a for a, name in gguf.MODEL_ARCH_NAMES.items() if name == layout["architecture"])
    table = gguf.get_tensor_name_map(arch, layout["shape"]["layers"])
    linear = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    found = {n: table.get_name(n) for n in linear}
    return {n: f"{name}.weight" for n, name in found.items() if name}


def place(block: int, dropped: list[int]) -> int:
    """The number of a block that stays once others are left out: those behind a gap move up."""
    return block - sum(d < block for d in dropped)


def moved(name: str, dropped: list[int]) -> str | None:
    """A tensor's name once blocks are left out; None where it is left out itself."""
    parts = name.split(".")
    if parts[0] == "blk":
        block = int(parts[1])
        if block in dropped:
            return None
        parts[1] = str(place(block, dropped))
    return ".".join(parts)
