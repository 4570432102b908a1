"""The Hessian X'X of each linear layer's inputs X (tokens, columns): summed, saved and read.

Also which layers can be measured at all: those whose GGUF tensor holds the layer's own rows.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from sintra.core import lazy
from sintra.formats.gguf.tensor_names import renumber_tensor
from sintra.formats.runtime.blocks import BlockModel
from sintra.stages.rounding.tensors import STORED_DTYPES
from sintra.store.files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from sintra.formats.gguf.mapped import MappedTensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

ExpertTensors = tuple[str, str, str]
"""GGUF names of a bank of experts: gate, up, down."""
MatrixNumbers = int | list[int]
"""The number of a tensor's Hessian; of a bank of experts a list, one number for each expert."""
Unmapped = list[list[str]]
"""[GGUF tensor, why it has no Hessian]."""


class CurvatureJson(TypedDict):
    """The file curvature.json of a curvature artifact."""

    tensors: dict[str, MatrixNumbers]  # GGUF tensor -> its Hessians, NNN.npy
    influence: list[float]  # of each block, see sintra.formats.runtime.blocks.influence
    tokens: int  # tokens that were run through the model
    unmapped: Unmapped


def hessian_path(folder: Path, number: int) -> Path:
    """Return the file of a Hessian, (columns, columns) float32."""
    return folder / f"{number:03}.npy"


def diagonal_path(folder: Path, number: int) -> Path:
    """Return the file of a Hessian's diagonal over the text alone, (columns,) float32."""
    return folder / f"{number:03}.diagonal.npy"


def load_hessian(curvature: Path, number: int) -> NDArray[np.float32]:
    """Read a Hessian of a curvature artifact, the mean over tokens, (columns, columns)."""
    hessian: NDArray[np.float32] = np.load(hessian_path(curvature, number))
    return hessian


def hessian_numbers(curvature: Path, dropped: list[int]) -> dict[str, list[int]]:
    """Return GGUF tensor -> numbers of its Hessians, one or one for each expert.

    dropped: blocks that the model lacks; names of tensors behind them are renumbered.
    """
    text: CurvatureJson = json.loads((curvature / "curvature.json").read_text())
    return {
        name: as_list(numbers)
        for original, numbers in text["tensors"].items()
        if (name := renumber_tensor(original, dropped))
    }


def as_list(numbers: MatrixNumbers) -> list[int]:
    """Return the numbers of a tensor's Hessians as a list."""
    return [numbers] if isinstance(numbers, int) else numbers


@dataclass
class CurvatureProgress:
    """What a curvature pass has measured so far; saved after every block."""

    blocks: int = 0  # blocks that are done; the output head counts as one more
    tensors: dict[str, MatrixNumbers] = field(default_factory=dict)  # by GGUF name
    token_counts: list[int] = field(default_factory=list)  # tokens that each Hessian is made of
    unmapped: Unmapped = field(default_factory=list)
    influence: list[float] = field(default_factory=list)  # of each block

    @staticmethod
    def load(folder: Path) -> CurvatureProgress:
        """Read what a killed pass saved; a fresh start where there is none."""
        path = folder / "progress.json"
        if not path.exists():
            return CurvatureProgress()
        return CurvatureProgress(**json.loads(path.read_text()))

    def save(self, folder: Path) -> None:
        """Write progress.json, whole or not at all."""
        write_atomic(folder / "progress.json", json.dumps(asdict(self)))


class HessianSum:
    """One matrix X'X and its parts, summed over windows."""

    total: Tensor
    """X'X, (columns, columns) float32."""
    tokens: int
    """How many tokens are in `total`."""
    text_squares: Tensor
    """The diagonal of X'X over the text alone, (columns,) float32."""
    text_tokens: int
    """How many tokens are in `text_squares`."""

    def __init__(self, columns: int) -> None:
        self.total, self.tokens = torch.zeros(columns, columns), 0
        self.text_squares, self.text_tokens = torch.zeros(columns), 0

    def add(self, x: Tensor, is_text: bool) -> None:
        """Add inputs (..., tokens, columns)."""
        flat = x.detach().reshape(-1, x.shape[-1]).float()
        self.total.addmm_(flat.T, flat)
        self.tokens += len(flat)
        if is_text:
            self.text_squares += flat.square().sum(0)
            self.text_tokens += len(flat)

    def mean(self) -> NDArray[np.float32]:
        """Return X'X divided by the tokens, (columns, columns)."""
        mean: NDArray[np.float32] = (self.total / max(self.tokens, 1)).numpy()
        return mean

    def text_diagonal(self) -> NDArray[np.float32]:
        """Return the text's mean squares, (columns,).

        Ones where no token of the text came (an expert that none chose), like llama.cpp's own:
        zeros would say that nothing there matters.
        """
        if not self.text_tokens:
            ones: NDArray[np.float32] = torch.ones(len(self.total)).numpy()
            return ones
        mean: NDArray[np.float32] = (self.text_squares / self.text_tokens).numpy()
        return mean


class HessianCollector:
    """Sums the Hessians of a block's layers while the model is run.

    Layers that get the same tensor share one Hessian; every expert has its own.
    """

    layers: Mapping[str, str]
    """Linear layer -> GGUF tensor."""
    banks: Mapping[str, ExpertTensors]
    """Bank of experts -> GGUF tensors."""
    sums: list[HessianSum]
    """The Hessians, by number."""
    numbers: dict[str, MatrixNumbers]
    """GGUF tensor -> its Hessians."""
    window_inputs: list[tuple[Tensor, int]]
    """Inputs of the present window, and the number of the Hessian that each went into."""
    is_text: bool
    """Whether the present window is text."""

    def __init__(
        self, layers: Mapping[str, str], banks: Mapping[str, ExpertTensors] | None = None
    ) -> None:
        self.layers, self.banks = layers, banks or {}
        self.sums, self.numbers = [], {}
        self.window_inputs, self.is_text = [], True

    def begin_window(self, is_text: bool) -> None:
        """Begin a window of text or of random tokens."""
        self.window_inputs, self.is_text = [], is_text

    @contextlib.contextmanager
    def hooked(self, net: nn.Module) -> Iterator[None]:
        """Add up the layers' inputs whenever the model is run in this context."""
        hooks = [
            net.get_submodule(module).register_forward_pre_hook(self._layer_hook(tensor))
            for module, tensor in self.layers.items()
        ]
        hooks += [
            net.get_submodule(module).register_forward_pre_hook(self._bank_hook(tensors))
            for module, tensors in self.banks.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _layer_hook(self, tensor: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _, args: self.add_input(tensor, args[0])

    def _bank_hook(self, tensors: ExpertTensors) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda module, args: self.add_expert_inputs(tensors, module, args[0], args[1])

    def add_input(self, tensor: str, x: Tensor) -> None:
        """Add one window's input of a layer, (1, tokens, columns)."""
        number = next((n for y, n in self.window_inputs if y is x), None)
        if tensor not in self.numbers:
            self.numbers[tensor] = self._new_sum(x.shape[-1]) if number is None else number
        if number is None:
            own = self.numbers[tensor]
            assert isinstance(own, int)
            self.sums[own].add(x, self.is_text)
            self.window_inputs.append((x, own))

    def add_expert_inputs(
        self, tensors: ExpertTensors, bank: Any, x: Tensor, chosen: Tensor
    ) -> None:
        """Add one window's inputs of every expert of a bank.

        Those of gate and up are the tokens that chose the expert, those of down what it made of
        them. x: (tokens, width); chosen: the experts of each token, (tokens, k).
        """
        gate, up, down = tensors
        count = len(bank.down_proj)
        if gate not in self.numbers:
            self.numbers[gate] = self.numbers[up] = [
                self._new_sum(x.shape[-1]) for _ in range(count)
            ]
            self.numbers[down] = [self._new_sum(bank.down_proj.shape[-1]) for _ in range(count)]
        outer, inner = as_list(self.numbers[gate]), as_list(self.numbers[down])
        for expert in range(count):
            own = x[(chosen == expert).any(-1)]
            if len(own):
                gated, raised = torch.nn.functional.linear(own, bank.gate_up_proj[expert]).chunk(
                    2, -1
                )
                self.sums[outer[expert]].add(own, self.is_text)
                self.sums[inner[expert]].add(bank.act_fn(gated) * raised, self.is_text)

    def _new_sum(self, columns: int) -> int:
        """Begin one more Hessian and return its number."""
        self.sums.append(HessianSum(columns))
        return len(self.sums) - 1

    def write(self, progress: CurvatureProgress, folder: Path) -> None:
        """Write all Hessians and diagonals; they are numbered on from those of `progress`."""
        base = len(progress.token_counts)
        for number, total in enumerate(self.sums, base):
            np.save(hessian_path(folder, number), total.mean())
            np.save(diagonal_path(folder, number), total.text_diagonal())
        progress.token_counts += [total.tokens for total in self.sums]
        for name, numbers in self.numbers.items():
            shifted = numbers + base if isinstance(numbers, int) else [n + base for n in numbers]
            progress.tensors[name] = shifted


def matching_layers(
    model: BlockModel,
    tensors: Mapping[str, MappedTensor],
    layers: Mapping[str, str],
    unmapped: Unmapped,
) -> dict[str, str]:
    """Return the layers (module -> GGUF tensor) whose tensor holds the layer's rows.

    The rows may be in any order: the converter permutes some. Other layers go to `unmapped`.
    """
    matching = {}
    for module, name in layers.items():
        tensor = tensors.get(name)
        if tensor is None and name == "output.weight":
            tensor = tensors.get("token_embd.weight")
        if tensor is None:
            unmapped.append([name, "not in the GGUF"])
        elif same_rows(tensor.data, tensor.tensor_type.name, model.rows(module)):
            matching[module] = name
        else:
            unmapped.append([name, "its rows are not the layer's"])
    return matching


def matching_banks(
    model: BlockModel,
    tensors: Mapping[str, MappedTensor],
    banks: Mapping[str, ExpertTensors],
    unmapped: Unmapped,
) -> dict[str, ExpertTensors]:
    """Return the banks of experts whose tensors hold the experts' rows, in any order.

    The banks' weights must be loaded. The tensors of other banks go to `unmapped`.
    """
    matching = {}
    for module, names in banks.items():
        bank: Any = model.net.get_submodule(module)
        gate_up, down = bank.gate_up_proj.detach(), bank.down_proj.detach()
        weights = (*gate_up.chunk(2, 1), down)
        if all(
            name in tensors and same_experts(tensors[name], weight)
            for name, weight in zip(names, weights, strict=True)
        ):
            matching[module] = names
        else:
            unmapped += [[name, "not in the GGUF, or not the expert's"] for name in names]
    return matching


def same_experts(tensor: MappedTensor, weight: Tensor) -> bool:
    """Tell whether a tensor and a bank's weight (experts, rows, columns) hold the same rows."""
    return len(tensor.data) == len(weight) and all(
        same_rows(data, tensor.tensor_type.name, [expert])
        for data, expert in zip(tensor.data, weight, strict=True)
    )


def same_rows(data: NDArray[Any], kind: str, slices: Iterable[Tensor]) -> bool:
    """Tell whether a GGUF matrix and a layer's weight hold the same rows, in any order.

    data: the matrix as it is stored; kind: its type, only 16 and 32 bits can be compared; slices:
    the weight in slices of rows (rows, columns).
    """
    if kind not in STORED_DTYPES:
        return False
    dtype: torch.dtype = getattr(torch, STORED_DTYPES[kind])
    stored = data.view(np.uint8).reshape(data.shape[0], -1)
    hashes = sorted(
        hash(row.tobytes())
        for part in slices
        for row in part.to(dtype).contiguous().view(torch.uint8).numpy()
    )
    return sorted(hash(row.tobytes()) for row in stored) == hashes
