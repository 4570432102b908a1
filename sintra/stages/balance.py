"""An equivalent model whose activations llama.cpp rounds better.

llama.cpp rounds the inputs of every matrix product to 8 bits, in blocks of 32 or 256 columns with
one scale each. A column of large inputs costs its whole block precision. So columns are scaled to
more equal size, and what made them is scaled the other way (as in SmoothQuant, arXiv 2211.10438):

    norm -> query, key, value; norm -> gate, up    the norm's weights, the matrices' columns
    value -> attention's output; up -> down        the rows, the columns

With r the root mean square of a column's inputs over the calibration text, its scale is
(r / geometric mean of r) ** 0.25. With 0.5 the 8-bit errors fall no further, and those of the
rounded weights grow (docs/log.md). A block is run before and after; one whose output differs (an
architecture in which something else reads the norm) stays as it was. So does one whose weights lie
on a grid of few values for each 32 columns: they were quantized before, or trained for it, and a
type that has their grid keeps them exactly.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.imatrix import load_importance
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.tensor_names import gguf_names
from sintra.formats.runtime.blocks import (
    Arguments,
    BlockModel,
    CheckpointTensors,
    OuterLayers,
    run_block,
)
from sintra.stages.rounding.hessian import hessian_numbers, hessian_path, load_hessian
from sintra.store.files import link_or_copy

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

POWER = 0.25  # of a column's size in its scale: 1 would make all columns equal
LARGEST = 16.0  # scale; the smallest is its inverse
HALF = 6e4  # the largest weight that is stored in float16
TOLERANCE = 1e-4  # largest relative error of a block's output that is taken for rounding
TOKENS = 32  # that blocks are compared on
GROUP, SAMPLE = (
    32,
    64,
)  # weights of a row that share a scale in most formats; rows that are looked at
DISTINCT = 28.0  # values in a group, on average, below which they are of a grid of at most 6 bits
NORMS = {  # norm of a block -> linear layers that read it
    "input_layernorm": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "post_attention_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
    "pre_feedforward_layernorm": ("mlp.gate_proj", "mlp.up_proj"),
}
PAIRS = {"self_attn.v_proj": "self_attn.o_proj", "mlp.up_proj": "mlp.down_proj"}


@dataclass
class Scaling:
    """How a block's weights change; names are those within the block."""

    columns: dict[str, Tensor] = field(default_factory=dict)  # linear layer -> factors of columns
    rows: dict[str, Tensor] = field(default_factory=dict)  # linear layer -> divisors of its rows
    vectors: dict[str, Tensor] = field(default_factory=dict)  # parameter -> its new value


def run(context: Context) -> None:
    """Write a checkpoint, and its curvature.

    inputs: model (the checkpoint), gguf (its 16-bit GGUF), curvature. curvature.json, NNN.npy and
    importance.npz are those of the balanced model.
    """
    torch.set_num_threads(context.threads)
    model, curvature = context.inputs["model"], context.inputs["curvature"]
    layout = read_layout(context.inputs["gguf"] / "model.gguf")
    balancing = Balancing(BlockModel(model), curvature, layout)
    if balancing.model.whole:
        context.say("the checkpoint's names aren't the modules': it stays as it is")
    else:
        balancing.run(context.say)
    write_checkpoint(model, context.out, balancing.whole)
    write_curvature(curvature, context.out, balancing.by_tensor())


@dataclass
class Block:
    """A block, its name, and the names of its linear layers' GGUF tensors."""

    module: nn.Module
    prefix: str  # of its modules' names
    tensors: Mapping[str, str]  # linear layer, by its whole name -> GGUF tensor

    def tensor(self, layer: str) -> str | None:
        """Return the GGUF tensor of a layer of the block."""
        return self.tensors.get(f"{self.prefix}{layer}")

    def find(self, name: str) -> nn.Module | None:
        """Return a module of the block, None where it has none of this name."""
        return dict(self.module.named_modules()).get(name)

    def layer(self, name: str) -> nn.Linear | None:
        """Return a linear layer of the block, None where it has none of this name."""
        found = self.find(name)
        return found if isinstance(found, torch.nn.Linear) else None


class Balancing:
    """The pass over a model's blocks."""

    model: BlockModel
    importance: Mapping[str, NDArray[np.float32]]
    """GGUF tensor -> mean squares of its input's columns."""
    names: Mapping[str, str]
    """Linear layer -> GGUF tensor."""
    whole: Scaling
    """Of all blocks, by names within the model. No matrix is kept."""

    def __init__(self, model: BlockModel, curvature: Path, layout: Mapping[str, Any]) -> None:
        self.model = model
        self.importance = load_importance(curvature, [])
        self.names = gguf_names(model.net, layout)
        self.whole = Scaling()

    def run(self, say: Any) -> None:
        """Balance every block. say: gets a line for a block that stays as it is."""
        outer = OuterLayers(self.model)
        vocabulary = self.model.net.get_input_embeddings().weight.shape[0]
        draw = torch.Generator().manual_seed(0)
        window = torch.randint(vocabulary, (1, TOKENS), generator=draw)
        hidden = outer.first_input(window)
        for number in range(len(self.model.blocks)):
            module = self.model.load(number)
            block = Block(module, f"{self.model.prefix}.{number}.", self.names)
            output = run_block(module, hidden, outer.calls[number])
            if trouble := self.balance(block, hidden, output, outer.calls[number]):
                say(f"block {number} stays as it is: {trouble}")
            hidden = output
            self.model.drop(number)

    def balance(self, block: Block, hidden: Tensor, output: Tensor, arguments: Arguments) -> str:
        """Balance a block in memory, and remember how; return why it stays as it was, "" if not.

        hidden, output: what the block reads and makes, (1, tokens, width).
        """
        if on_grid(block.module):
            return "its weights lie on a grid"
        scaling = balance_block(block, self.importance)
        after = run_block(block.module, hidden, arguments)
        difference = float((after - output).norm() / output.norm())
        if difference > TOLERANCE:
            return f"balanced it is {difference:.1e} off"
        self.keep(block.prefix, scaling)
        return ""

    def keep(self, prefix: str, scaling: Scaling) -> None:
        """Remember how a block changes."""
        for whole, part in (
            (self.whole.columns, scaling.columns),
            (self.whole.rows, scaling.rows),
            (self.whole.vectors, scaling.vectors),
        ):
            whole.update({f"{prefix}{name}": value for name, value in part.items()})

    def by_tensor(self) -> dict[str, NDArray[np.float32]]:
        """Return GGUF tensor -> factors of its columns."""
        columns = self.whole.columns.items()
        return {self.names[layer]: scale.numpy() for layer, scale in columns if layer in self.names}


def on_grid(block: nn.Module) -> bool:
    """Return whether a linear layer of a block has few different values in its groups."""
    weights = (m.weight for m in block.modules() if isinstance(m, torch.nn.Linear))
    return any(distinct_values(weight.detach()) < DISTINCT for weight in weights)


def distinct_values(weight: Tensor) -> float:
    """Return how many different values GROUP weights have on average."""
    columns = weight.shape[1] // GROUP * GROUP
    groups = weight[:SAMPLE, :columns].reshape(-1, GROUP).sort().values
    if not len(groups):
        return float(GROUP)
    return float(1 + (groups.diff() != 0).sum(1).float().mean())


def balance_block(block: Block, importance: Mapping[str, NDArray[np.float32]]) -> Scaling:
    """Scale a block's weights in place, and return how."""
    scaling = Scaling()
    with torch.no_grad():
        for norm, readers in NORMS.items():
            balance_norm(block, norm, readers, importance, scaling)
        for maker, reader in PAIRS.items():
            balance_pair(block, maker, reader, importance, scaling)
    return scaling


def balance_norm(
    block: Block,
    norm: str,
    readers: tuple[str, ...],
    importance: Mapping[str, NDArray[np.float32]],
    scaling: Scaling,
) -> None:
    """Scale a norm's weights, and the columns of the layers that read it the other way."""
    module = block.find(norm)
    layers = [layer for name in readers if (layer := block.layer(name)) is not None]
    squares = importance.get(block.tensor(readers[0]) or "")
    reads_another = norm == "post_attention_layernorm" and hasattr(
        block.module, "pre_feedforward_layernorm"
    )
    if module is None or len(layers) != len(readers) or squares is None or reads_another:
        return
    weight, scale = module.weight, scales_of(torch.from_numpy(squares))
    assert isinstance(weight, torch.Tensor)
    one = offset_of(module, weight)
    weight.copy_((weight + one) / scale - one)
    for layer in layers:
        layer.weight.mul_(scale)
    scaling.vectors[f"{norm}.weight"] = weight.detach().clone()
    scaling.columns |= dict.fromkeys(readers, scale)


def offset_of(norm: nn.Module, weight: Tensor) -> float:
    """Return what a norm adds to its weights: 1 for Gemma's, else 0."""
    original = weight.clone()
    probe = torch.linspace(-1, 1, len(weight))
    weight.zero_()
    found = float(norm(probe).abs().max() > 0)
    weight.copy_(original)
    return found


def balance_pair(
    block: Block,
    maker: str,
    reader: str,
    importance: Mapping[str, NDArray[np.float32]],
    scaling: Scaling,
) -> None:
    """Scale the columns of one layer, and the rows of the layer that makes its inputs the other
    way; heads that share a value share a scale.
    """
    first, second = block.layer(maker), block.layer(reader)
    squares = importance.get(block.tensor(reader) or "")
    if first is None or second is None or squares is None:
        return
    rows, columns = first.weight.shape[0], second.weight.shape[1]
    width = int(getattr(getattr(block.module, "self_attn", None), "head_dim", 0))
    sharing = columns // rows
    if columns % rows or (sharing > 1 and (not width or rows % width)):
        return
    width = width if sharing > 1 else rows
    by_head = torch.from_numpy(squares).view(rows // width, sharing, width)
    scale = scales_of(by_head.mean(1).reshape(-1))
    first.weight.div_(scale[:, None])
    if first.bias is not None:
        first.bias.div_(scale)
        scaling.vectors[f"{maker}.bias"] = first.bias.detach().clone()
    spread = scale.view(rows // width, 1, width).expand(-1, sharing, -1).reshape(-1)
    second.weight.mul_(spread)
    scaling.rows[maker], scaling.columns[reader] = scale, spread


def scales_of(squares: Tensor) -> Tensor:
    """Return columns' scales of their inputs' mean squares, (columns,)."""
    sizes = squares.double().sqrt()
    sizes = sizes.clamp(min=max(float(sizes.mean()) * 1e-3, 1e-30))
    scales = (POWER * (sizes.log() - sizes.log().mean())).exp()
    return scales.clamp(1 / LARGEST, LARGEST).float()


def write_checkpoint(model: Path, out: Path, scaling: Scaling) -> None:
    """Write a checkpoint in which some parameters have other values, file by file."""
    from safetensors import safe_open  # not on the no-op path
    from safetensors.torch import save_file

    plain = {stored: name for name, stored in CheckpointTensors(model).stored.items()}
    for path in sorted(model.iterdir()):
        target = out / path.name
        if path.is_dir():
            shutil.copytree(path, target)
            continue
        if path.suffix != ".safetensors" or not scaling.columns:
            link_or_copy(path.resolve(), target)
            continue
        with safe_open(path, framework="pt") as file:
            tensors = {
                n: scaled(scaling, plain.get(n, n), file.get_tensor(n))
                for n in file.keys()  # noqa: SIM118
            }
            save_file(tensors, target, file.metadata())


def scaled(scaling: Scaling, name: str, tensor: Tensor) -> Tensor:
    """Return a parameter of the balanced model: a matrix of 16 bits in float16, which has the most
    digits, norms and biases in float32, since 1 + weight has more.
    """
    if name in scaling.vectors:
        return scaling.vectors[name]
    layer = name.removesuffix(".weight")
    columns, rows = scaling.columns.get(layer), scaling.rows.get(layer)
    if layer == name or (columns is None and rows is None):
        return tensor
    value = tensor.float()
    if rows is not None:
        value = value / rows[:, None]
    if columns is not None:
        value = value * columns
    if tensor.dtype == torch.float32 or float(value.abs().max()) > HALF:
        return value.contiguous()
    return value.half().contiguous()


def write_curvature(curvature: Path, out: Path, columns: Mapping[str, NDArray[np.float32]]) -> None:
    """Write the curvature of the model whose columns are scaled.

    With inputs x / s: the Hessian is H / (s s'), the mean squares are those over s^2.
    """
    numbers, importance = hessian_numbers(curvature, []), load_importance(curvature, [])
    scale_of: dict[int, NDArray[np.float32]] = {}
    for name, scale in columns.items():
        scale_of |= dict.fromkeys(numbers.get(name, []), scale)
        if name in importance:
            importance[name] = importance[name] / scale**2
    for number in sorted({n for listed in numbers.values() for n in listed}):
        target = hessian_path(out, number)
        if number not in scale_of:
            link_or_copy(hessian_path(curvature, number).resolve(), target)
            continue
        scale = scale_of[number]
        np.save(target, load_hessian(curvature, number) / scale[:, None] / scale)
    np.savez(out / "importance.npz", **importance)  # type: ignore[arg-type]
    link_or_copy((curvature / "curvature.json").resolve(), out / "curvature.json")


STAGE = Stage(
    "balance",
    1,
    run,
    tools=("torch", "transformers"),
    files=("config.json", "importance.npz", "curvature.json"),
    title="Balance columns",
)
