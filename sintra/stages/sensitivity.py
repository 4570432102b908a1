"""How much each matrix's rounding costs, from one backward pass of the 16-bit model.

y = W x is a layer's output without its bias, g the gradient of the log-probability of the next
tokens by it, where the tokens are drawn from the model's own predictions. A change E of the matrix
then costs, to second order and with the tokens taken as independent (the Kronecker-factored Fisher
information, Martens and Grosse, arXiv 1503.05671; of its factor over rows only the diagonal),

    KLD = 1/2 sum over rows r of E[g_r^2] e_r H e_r'

A quantizer's steps grow with a row's weights, so the error that a file's distortion.json states as
a share of the whole output, tr(E H E') / tr(W H W'), lies on the rows as |w_r|^2 does. It costs
that share times

    sensitivity = 1/2 sum(E[g_r^2] |w_r|^2) / sum(|w_r|^2) x sum(E[y_r^2])     (nats)

(docs/benchmarks.md compares this with measured mixes, and with other ways to spread the error.) So
a file's distortion.json (shares of each output) and one pass predict the KLD of any mix. The
model is run block by block, forward and then backward, so that one block and the output head are in
memory; hidden states and gradients between blocks are on disk. A killed run goes on at its block.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.tensor_names import expert_names, gguf_names
from sintra.formats.runtime.blocks import BlockModel, OuterLayers, run_block
from sintra.formats.runtime.calibration_text import calibration_windows
from sintra.formats.runtime.functional_block import one_window
from sintra.formats.runtime.state_files import StateFiles
from sintra.store.files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor, nn
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

EMBEDDING = "token_embd.weight"
HEAD = "output.weight"


class SensitivityJson(TypedDict):
    """The file sensitivity.json."""

    tensors: dict[str, float]  # GGUF tensor -> nats for each unit of its relative squared error
    tokens: int  # tokens of the pass


def run(context: Context) -> None:
    """Write sensitivity.json (SensitivityJson).

    inputs: model (the checkpoint), gguf (the 16-bit one, for names and vocabulary), text
    (calibration). params: tokens, and how many windows of `context` tokens are drawn from them.
    Raises Infeasible for banks of experts.
    """
    torch.set_num_threads(context.threads)
    path = context.inputs["gguf"] / "model.gguf"
    layout = read_layout(path)
    windows = calibration_windows(context, path, layout).tokens
    chosen = np.random.default_rng(0).permutation(len(windows))[: context.params["windows"]]
    model = BlockModel(context.inputs["model"])
    if expert_names(model.net):
        raise Infeasible("unsupported", "sensitivities by gradient: banks of experts aren't split")
    names = gguf_names(model.net, layout)
    context.keep.mkdir(parents=True, exist_ok=True)
    tokens = torch.from_numpy(windows[np.sort(chosen)]).long()
    progress = SensitivityPass(model, names, tokens, context.keep).run(context.say)
    tensors = progress.tensors
    if layout["shape"]["tied"] and HEAD in tensors:  # as the head it costs more than as the input
        tensors[EMBEDDING] = tensors.pop(HEAD)
    result: SensitivityJson = {"tensors": tensors, "tokens": tokens.numel()}
    context.write_json("sensitivity.json", result)


@dataclass
class PassProgress:
    """What a pass has done so far; saved behind every block."""

    forward: int = 0  # blocks that were run
    backward: int = 0  # blocks behind which gradients were brought, the output head counted
    tensors: dict[str, float] = field(default_factory=dict)  # GGUF tensor -> sensitivity

    @staticmethod
    def load(folder: Path) -> PassProgress:
        """Read what a killed pass saved; a fresh start where there is nothing sound."""
        try:
            return PassProgress(**json.loads((folder / "progress.json").read_text()))
        except (OSError, ValueError, TypeError):
            return PassProgress()

    def save(self, folder: Path) -> None:
        """Write progress.json, whole or not at all."""
        write_atomic(folder / "progress.json", json.dumps(asdict(self)))


class RowMoments:
    """Sums over tokens of g^2 and of y^2 for each row of a layer's output."""

    gradient: Tensor
    """Sums of g^2, (rows,) float64."""
    output: Tensor
    """Sums of y^2, (rows,) float64."""
    tokens: int
    """How many tokens were summed."""

    def __init__(self) -> None:
        self.gradient = self.output = torch.zeros((), dtype=torch.float64)
        self.tokens = 0

    def add(self, gradient: Tensor, output: Tensor) -> None:
        """Add some tokens: gradient of and output, both (..., tokens, rows)."""
        g, y = (x.detach().reshape(-1, x.shape[-1]).float() for x in (gradient, output))
        self.add_sums(g.square().sum(0), y.square().sum(0), len(g))

    def add_sums(self, gradient: Tensor, output: Tensor, tokens: int) -> None:
        """Add sums over tokens of g^2 and y^2 that were taken elsewhere, (rows,)."""
        self.gradient = self.gradient + gradient.double()
        self.output = self.output + output.double()
        self.tokens += tokens

    def sensitivity(self, row_squares: Tensor) -> float:
        """Return the sensitivity of the module's formula, in nats.

        row_squares: |w_r|^2 of each row, (rows,).
        """
        share = row_squares.double() / row_squares.double().sum().clamp_min(1e-30)
        gradient = float((self.gradient * share).sum())
        return gradient * float(self.output.sum()) / 2 / max(self.tokens, 1) ** 2


class SensitivityPass:
    """One forward and one backward pass over the model, block by block."""

    model: BlockModel
    """The checkpoint, whose blocks are loaded one at a time."""
    names: Mapping[str, str]
    """Linear layer -> GGUF tensor."""
    windows: Tensor
    """Token ids, (windows, tokens) int64."""
    folder: Path
    """Where hidden states, gradients and the progress are kept."""
    progress: PassProgress
    """What has been done so far."""
    hidden: StateFiles
    """The hidden states before each block."""
    gradients: StateFiles
    """The loss's gradients by them."""

    def __init__(
        self, model: BlockModel, names: Mapping[str, str], windows: Tensor, folder: Path
    ) -> None:
        self.model, self.names, self.windows, self.folder = model, names, windows, folder
        self.progress = PassProgress.load(folder)
        self.passing = OuterLayers(model)
        model.net.requires_grad_(False)
        # This also records what else the blocks are called with.
        shape = (*windows.shape, self.passing.first_input(windows[:1]).shape[-1])
        self.hidden = StateFiles(folder, "hidden", shape)
        self.gradients = StateFiles(folder, "gradient", shape)

    def run(self, say: Callable[[str], None]) -> PassProgress:
        """Run all blocks forward, then the head and all blocks backward.

        say: gets a line of progress a block.
        """
        count, start = len(self.model.blocks), time.monotonic()
        if self.progress.forward == 0:
            self.embed()
        for number in range(self.progress.forward, count):
            self.advance(number)
            say(f"block {number + 1} of {count}, forward")
        if self.progress.backward == 0:
            self.measure_head()
        first = self.progress.backward - 1
        for done in range(first, count):
            self.measure_block(count - 1 - done)
            left = (time.monotonic() - start) / (done + 1) * (count - done - 1)
            say(f"block {done + 1} of {count}, backward, {left:.0f} s left")
        self.measure_embedding()
        return self.progress

    def embed(self) -> None:
        """Write the input of the first block."""
        states = self.hidden.new(0)
        for i, window in enumerate(self.windows):
            states[i] = self.passing.first_input(window[None])[0].float().numpy()
        states.flush()

    def advance(self, number: int) -> None:
        """Write a block's output, and save the progress."""
        block = self.model.load(number)
        before, after = self.hidden.read(number), self.hidden.new(number + 1)
        for i in range(len(self.windows)):
            output = run_block(block, one_window(before, i), self.passing.calls[number])
            after[i] = output[0].float().numpy()
        after.flush()
        self.model.drop(number)
        self.progress.forward = number + 1
        self.progress.save(self.folder)

    def measure_head(self) -> None:
        """Draw tokens from the predictions; write their gradients behind the last block.

        The head's own rows: the Fisher information of logits is diag(p) - p p', whose diagonal is
        exact, without a draw.
        """
        count, moments = len(self.model.blocks), RowMoments()
        self.model.load_head()
        self.model.head.requires_grad_(False)
        hidden, gradients = self.hidden.read(count), self.gradients.new(count)
        generator = torch.Generator().manual_seed(0)
        for i, window in enumerate(self.windows):
            x = one_window(hidden, i).requires_grad_()
            logits = self.passing.logits(window[None], x)[0].float()
            p = torch.softmax(logits.detach(), -1)
            drawn = torch.multinomial(p, 1, generator=generator)[:, 0]
            loss = torch.nn.functional.cross_entropy(logits, drawn, reduction="sum")
            (gradient,) = torch.autograd.grad(loss, x)
            gradients[i] = gradient[0].numpy()
            squares = logits.detach().square().sum(0)
            moments.add_sums((p * (1 - p)).sum(0), squares, len(window))
        gradients.flush()
        if name := self.names.get(self.model.head_name):
            rows = torch.cat([r.square().sum(1) for r in self.model.rows(self.model.head_name)])
            self.progress.tensors[name] = moments.sensitivity(rows)
        self.progress.backward = 1
        self.progress.save(self.folder)
        self.hidden.drop(count)

    def measure_block(self, number: int) -> None:
        """Write a block's sensitivities and the gradients before it, and save the progress."""
        block = self.model.load(number)
        block.requires_grad_(False)
        start = f"{self.model.prefix}.{number}."
        layers = {n.removeprefix(start): t for n, t in self.names.items() if n.startswith(start)}
        moments = {tensor: RowMoments() for tensor in layers.values()}
        rows = {tensor: row_squares(block, layer) for layer, tensor in layers.items()}
        before, behind = self.hidden.read(number), self.gradients.read(number + 1)
        gradients = self.gradients.new(number)
        with recorded_rows(block, layers, moments):
            for i in range(len(self.windows)):
                x = one_window(before, i).requires_grad_()
                output = run_block(block, x, self.passing.calls[number])
                torch.autograd.backward(output, one_window(behind, i))
                assert x.grad is not None
                gradients[i] = x.grad[0].numpy()
        gradients.flush()
        self.model.drop(number)
        self.progress.tensors |= {name: m.sensitivity(rows[name]) for name, m in moments.items()}
        self.progress.backward += 1
        self.progress.save(self.folder)
        self.gradients.drop(number + 1)
        self.hidden.drop(number + 1)

    def measure_embedding(self) -> None:
        """Add the embedding's sensitivity as the input of the first block."""
        moments = RowMoments()
        hidden, gradients = self.hidden.read(0), self.gradients.read(0)
        for i in range(len(self.windows)):
            moments.add(one_window(gradients, i), one_window(hidden, i))
        self.progress.tensors[EMBEDDING] = moments.sensitivity(moments.output)


def row_squares(block: nn.Module, layer: str) -> Tensor:
    """Return |w_r|^2 of each row of a block's layer, (rows,) float32."""
    weight = block.get_submodule(layer).weight
    assert isinstance(weight, torch.Tensor)
    return weight.detach().float().square().sum(1)


@contextlib.contextmanager
def recorded_rows(
    block: nn.Module, layers: Mapping[str, str], moments: Mapping[str, RowMoments]
) -> Iterator[None]:
    """Add up the moments of the layers' outputs whenever the block is run and differentiated.

    layers: layer -> GGUF tensor; moments: GGUF tensor -> its moments.
    """

    def recorder(tensor: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def record(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> None:
            plain = output.detach()
            bias = getattr(layer, "bias", None)
            if bias is not None:
                plain = plain - bias
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: moments[tensor].add(gradient, plain)
            )

        return record

    hooks = [
        block.get_submodule(layer).register_forward_hook(recorder(tensor))
        for layer, tensor in layers.items()
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


STAGE = Stage(
    "sensitivity",
    1,
    run,
    tools=("torch", "transformers"),
    files=("sensitivity.json",),
    title="Sensitivities",
)
