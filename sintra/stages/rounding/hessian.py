"""TODO."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.formats.runtime.blocks import BlockModel

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


Bank = tuple[str, str, str]


@dataclass
class Found:
    """What is known so far; saved after every block. of: tensor name -> number(s); hits: tokens
    that a matrix has seen.
    """

    blocks: int = 0
    of: dict[str, int | list[int]] = field(default_factory=dict)
    hits: list[int] = field(default_factory=list)
    unmapped: list[list[str]] = field(default_factory=list)
    influence: list[float] = field(default_factory=list)

    @staticmethod
    def load(keep: Path) -> Found:
        """As a killed run left it."""
        path = keep / "found.json"
        return Found(**json.loads(path.read_text())) if path.exists() else Found()

    def save(self, keep: Path) -> None:
        """Whole or not at all."""
        part = keep / "found.part"
        part.write_text(json.dumps(self.__dict__))
        part.replace(keep / "found.json")


class Inputs:
    """Sums of X'X for the layers of a block. seen: the inputs of this window so far: the same
    tensor, the same matrix.
    """

    def __init__(self, names: dict[str, str], banks: dict[str, Bank] | None = None) -> None:
        self.names, self.banks = names, banks or {}
        self.sums: list[Tensor] = []
        self.hits: list[int] = []
        self.of: dict[str, int | list[int]] = {}
        self.seen: list[tuple[Tensor, int]] = []
        self.plain = True
        self.squares: list[Tensor] = []
        self.texts: list[int] = []

    def begin(self, plain: bool) -> None:
        """A new window, of text or of random tokens."""
        self.seen, self.plain = [], plain

    @contextlib.contextmanager
    def watching(self, net: Any) -> Iterator[None]:
        """A context in which the layers' inputs are added up."""
        hooks = [
            net.get_submodule(n).register_forward_pre_hook(self._hook(t))
            for n, t in self.names.items()
        ]
        hooks += [
            net.get_submodule(n).register_forward_pre_hook(self._bank_hook(t))
            for n, t in self.banks.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, tensor: str) -> Any:
        return lambda _, args: self.add(tensor, args[0])

    def _bank_hook(self, bank: Bank) -> Any:
        return lambda module, args: self.add_experts(bank, module, args[0], args[1])

    def add_experts(self, bank: Bank, module: Any, x: Tensor, chosen: Tensor) -> None:
        """One window's inputs of every expert: of gate and up the tokens that chose it, of down
        what it made of them.
        """
        gate, up, down = bank
        count = len(module.down_proj)
        if gate not in self.of:
            self.of[gate] = self.of[up] = [self.new(x.shape[-1]) for _ in range(count)]
            self.of[down] = [self.new(module.down_proj.shape[-1]) for _ in range(count)]
        outer, inner = self.of[gate], self.of[down]
        assert isinstance(outer, list)
        assert isinstance(inner, list)
        for e in range(count):
            own = x[(chosen == e).any(-1)]
            if len(own):
                a, b = torch.nn.functional.linear(own, module.gate_up_proj[e]).chunk(2, -1)
                self.accumulate(outer[e], own)
                self.accumulate(inner[e], module.act_fn(a) * b)

    def add(self, tensor: str, x: Tensor) -> None:
        """One window's input of a layer."""
        number = next((n for y, n in self.seen if y is x), None)
        if tensor not in self.of:
            self.of[tensor] = self.new(x.shape[-1]) if number is None else number
        if number is None:
            mine = self.of[tensor]
            assert isinstance(mine, int)
            self.accumulate(mine, x)
            self.seen.append((x, mine))

    def new(self, width: int) -> int:
        """Room for one more matrix."""
        self.sums.append(torch.zeros(width, width))
        self.hits.append(0)
        self.squares.append(torch.zeros(width))
        self.texts.append(0)
        return len(self.sums) - 1

    def accumulate(self, number: int, x: Tensor) -> None:
        """Add x'x."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        self.sums[number].addmm_(flat.T, flat)
        self.hits[number] += len(flat)
        if self.plain:
            self.squares[number] += flat.square().sum(0)
            self.texts[number] += len(flat)

    def write(self, found: Found, keep: Path) -> None:
        """keep/NNN.npy for every matrix, numbered after those that are found already."""
        base = len(found.hits)
        for number, (total, hits) in enumerate(zip(self.sums, self.hits, strict=True)):
            np.save(keep / f"{base + number:03}.npy", (total / max(hits, 1)).numpy())
            # An expert that no token chose gets ones, like llama.cpp's own: zeros would say that
            # nothing there matters.
            plain = (
                self.squares[number] / self.texts[number]
                if self.texts[number]
                else torch.ones(len(total))
            )
            np.save(keep / f"{base + number:03}.diagonal.npy", plain.numpy())
        found.hits += self.hits
        for name, of in self.of.items():
            found.of[name] = of + base if isinstance(of, int) else [n + base for n in of]


def proven(
    model: BlockModel, held: dict[str, Any], names: dict[str, str], bad: list[list[str]]
) -> dict[str, str]:
    """The layers whose GGUF tensor holds the layer's rows, in any order (the converter permutes
    some); others go to bad.

    held: the GGUF's tensors by name.
    """
    good = {}
    for module, name in names.items():
        tensor = held.get(name) or (
            held.get("token_embd.weight") if name == "output.weight" else None
        )
        if tensor is None:
            bad.append([name, "not in the GGUF"])
        elif same_rows(tensor.data, tensor.tensor_type.name, model.rows(module)):
            good[module] = name
        else:
            bad.append([name, "its rows are not the layer's"])
    return good


def proven_banks(
    model: BlockModel, held: dict[str, Any], banks: dict[str, Bank], bad: list[list[str]]
) -> dict[str, Bank]:
    """The same for banks of experts, whose weights are loaded."""
    good = {}
    for module, names in banks.items():
        bank = model.net.get_submodule(module)
        both, down = bank.gate_up_proj.detach(), bank.down_proj.detach()
        weights = dict(zip(names, (*both.chunk(2, 1), down), strict=True))
        same = all(
            name in held
            and len(held[name].data) == len(w)
            and all(
                same_rows(held[name].data[e], held[name].tensor_type.name, iter([w[e]]))
                for e in range(len(w))
            )
            for name, w in weights.items()
        )
        if same:
            good[module] = names
        else:
            bad += [[name, "not in the GGUF, or not the expert's"] for name in names]
    return good


def same_rows(data: Any, kind: str, slices: Iterator[Tensor]) -> bool:
    """Whether a 16-bit or 32-bit GGUF matrix and a layer's weight, in slices of rows (rows,
    columns), hold the same rows.
    """
    dtype = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}.get(kind)
    if dtype is None:
        return False
    stored = data.view(np.uint8).reshape(data.shape[0], -1)
    wanted = sorted(
        hash(r.tobytes())
        for part in slices
        for r in part.to(dtype).contiguous().view(torch.uint8).numpy()
    )
    return sorted(hash(r.tobytes()) for r in stored) == wanted
