"""Run a transformers model block by block: a block's weights are in memory only while it runs.

Needs a checkpoint in safetensors whose tensor names are the modules' own, or those of single
experts. Other checkpoints (renamed tensors) are loaded whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.checkpoint.remote_code import allow_in_process

if TYPE_CHECKING:
    import torch
    from numpy.typing import ArrayLike
    from torch import Tensor, nn
else:
    torch = lazy.module("torch")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]  # positional and by name
ROWS = 4096  # rows of a matrix that are read at once
# What a merged parameter of a bank of experts consists of in checkpoints, expert by expert.
MERGED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}
# How names begin in checkpoints of several parts -> in the language model alone.
TEXT_PARTS = (
    ("language_model.model.", "model."),
    ("model.language_model.", "model."),
    ("model.text_model.", "model."),
    ("language_model.lm_head.", "lm_head."),
)


class CheckpointTensors:
    """The tensors of a folder's safetensors files, by the names of a language model alone."""

    file_of: dict[str, Any]  # tensor name -> open safetensors file that holds it
    stored: dict[str, str]  # tensor name -> its name there, where that is another

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open  # not on the no-op path

        index = folder / "model.safetensors.index.json"
        names = (
            sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if index.exists()
            else ["model.safetensors"]
        )
        files: list[Any] = [
            safe_open(folder / n, framework="pt") for n in names if (folder / n).exists()
        ]
        self.file_of = {name: file for file in files for name in file.keys()}  # noqa: SIM118
        self.stored = {}
        for name in list(self.file_of):
            if (plain := text_name(name)) not in self.file_of:
                self.file_of[plain], self.stored[plain] = self.file_of[name], name

    def parts(self, name: str) -> list[list[str]] | None:
        """Return the names of the tensors that a module's parameter is made of, expert by expert.

        None where the checkpoint does not have them.
        """
        for stored in (name, name.replace(".mlp.", ".block_sparse_moe.")):
            if stored in self.file_of:
                return [[stored]]
            bank, _, merged = stored.rpartition(".")
            for projections in MERGED.get(merged, ()):
                if experts := self._experts(bank, projections):
                    return experts
        return None

    def _experts(self, bank: str, projections: tuple[str, ...]) -> list[list[str]]:
        """Return the names of the projections' weights of each expert of a bank."""
        experts: list[list[str]] = []
        while True:
            names = [f"{bank}.{len(experts)}.{p}.weight" for p in projections]
            if not all(n in self.file_of for n in names):
                return experts
            experts.append(names)

    def get(self, name: str) -> Tensor:
        """Return a parameter in float32, assembled where the checkpoint has it in parts."""
        parts = self.parts(name)
        assert parts is not None, name
        if len(parts) == 1 and len(parts[0]) == 1:
            return self._read(parts[0][0])
        return torch.stack([torch.cat([self._read(n) for n in row]) for row in parts])

    def _read(self, name: str) -> Tensor:
        """Return a tensor of the checkpoint in float32."""
        tensor: Tensor = self.file_of[name].get_tensor(self.stored.get(name, name))
        return tensor.float()

    def rows(self, name: str) -> Iterator[Tensor]:
        """Yield a matrix in slices of ROWS rows, in float32."""
        matrix = self.file_of[name].get_slice(self.stored.get(name, name))
        for start in range(0, matrix.get_shape()[0], ROWS):
            yield matrix[start : start + ROWS].float()


def text_name(name: str) -> str:
    """Return a tensor's name without what stands for the language model as a part of others."""
    for start, plain in TEXT_PARTS:
        if name.startswith(start):
            return plain + name.removeprefix(start)
    return name


class BlockModel:
    """A causal language model in float32 whose blocks are loaded one at a time.

    Of a model that also sees or hears it is the language model alone, as in its GGUF.
    """

    net: Any  # the network of transformers
    checkpoint: CheckpointTensors
    tied: dict[str, str]  # parameter -> the parameter whose weights it shares
    whole: bool  # whether the model had to be loaded at once
    prefix: str  # name of the list of blocks
    blocks: nn.ModuleList
    head: nn.Module  # the output head
    head_name: str

    def __init__(self, folder: Path) -> None:
        """Load everything outside the blocks.

        Raises Infeasible("refused") for a model with Python code that the user did not allow.
        """
        trust = allow_in_process(folder)
        # transformers must see the environment that allow_in_process sets; slow to import
        import transformers
        from accelerate import init_empty_weights

        try:
            config: Any = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=trust)
        except ValueError as error:
            if "trust_remote_code" not in str(error):
                raise
            raise Infeasible(
                "refused", "it needs Python code of its own: model.trust_remote_code=true runs it"
            ) from None
        whole_config, config = config, config.get_text_config()
        loader: Any = transformers.AutoModelForCausalLM
        with init_empty_weights():
            self.net = loader.from_config(config, dtype=torch.float32, trust_remote_code=trust)
        self.checkpoint = CheckpointTensors(folder)
        self.tied = dict(getattr(self.net, "all_tied_weights_keys", None) or {})
        self.whole = any(
            self.checkpoint.parts(n) is None
            for n, _ in self.net.named_parameters()
            if n not in self.tied
        )
        if self.whole and config is not whole_config:
            raise Infeasible(
                "unsupported",
                "its language model's tensors aren't named as transformers names them",
            )
        if self.whole:
            self.net = loader.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=trust, use_safetensors=True
            )
        self.net.train(False)
        self.prefix, self.blocks = find_blocks(self.net, config.num_hidden_layers)
        self.head = self.net.get_output_embeddings()
        self.head_name = next(n for n, m in self.net.named_modules() if m is self.head)
        if not self.whole:
            self._load_rest()

    def _load_rest(self) -> None:
        """Load everything outside the blocks except the output head, whose product is not used."""
        names = [
            n
            for n in self.net.state_dict()
            if not n.startswith((self.prefix + ".", self.head_name + "."))
            and self.checkpoint.parts(n)
        ]
        self.net.load_state_dict(
            {n: self.checkpoint.get(n) for n in names}, strict=False, assign=True
        )

    def load(self, number: int) -> nn.Module:
        """Return a block with its weights."""
        block = self.blocks[number]
        if not self.whole:
            start = f"{self.prefix}.{number}."
            block.load_state_dict(
                {n: self.checkpoint.get(start + n) for n in block.state_dict()}, assign=True
            )
        return block

    def drop(self, number: int) -> None:
        """Free a block's weights."""
        if not self.whole:
            block = self.blocks[number]
            block.load_state_dict(
                {n: t.to("meta") for n, t in block.state_dict().items()}, assign=True
            )

    def load_head(self) -> None:
        """Load the output head's weights."""
        if self.whole:
            return
        state = {"weight": torch.cat(list(self.rows(self.head_name)))}
        bias = f"{self.head_name}.bias"
        if self.checkpoint.parts(bias):
            state["bias"] = self.checkpoint.get(bias)
        self.head.load_state_dict(state, assign=True)

    def rows(self, module: str) -> Iterator[Tensor]:
        """Yield a linear layer's weight in slices of ROWS rows, in float32.

        They are read from the checkpoint where it has the tensor.
        """
        name = f"{module}.weight"
        if name not in self.checkpoint.file_of:
            name = self.tied.get(name, name)
        if not self.whole and name in self.checkpoint.file_of:
            yield from self.checkpoint.rows(name)
        else:
            weight = self.net.get_submodule(module).weight
            assert isinstance(weight, torch.Tensor)
            for start in range(0, len(weight), ROWS):
                yield weight[start : start + ROWS].detach().float()


def find_blocks(net: nn.Module, count: int) -> tuple[str, nn.ModuleList]:
    """Return the name of the model's list of blocks, and the list.

    Raises ValueError where no list has `count` modules.
    """
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, module
    raise ValueError(f"no list of {count} blocks")


class StopForward(Exception):
    """Ends the forward pass of a model: enough of it has been run."""


class OuterLayers:
    """The parts of a model around its blocks: before the first and behind the last."""

    calls: list[Arguments]  # what each block is called with beside the hidden states
    tuples: bool  # whether this model's blocks return tuples

    def __init__(self, model: BlockModel) -> None:
        self.model = model
        self.calls = []
        self.tuples = False

    def first_input(self, window: Tensor) -> Tensor:
        """Return the input of block 0, (1, tokens, width), for token ids (1, tokens).

        `calls` holds every block's other arguments afterwards.
        """
        inputs: list[Tensor] = []
        self.calls = []

        def record(x: Tensor, *args: Any, **named: Any) -> Any:
            inputs.append(x)
            self.calls.append((args, named))
            if x.dim() < inputs[0].dim() or len(inputs) == len(self.model.blocks):
                raise StopForward
            return (x,) if self.tuples else x

        with torch.no_grad():
            self._run(window, record)
        # the model took the first element of what it expected to be a tuple
        if inputs[-1].dim() < inputs[0].dim():
            self.tuples = True
            return self.first_input(window)
        return inputs[0]

    def head_input(self, window: Tensor, hidden: Tensor) -> Tensor:
        """Return the output head's input, (1, tokens, width).

        window: token ids, (1, tokens); hidden: the last block's output, (1, tokens, width).
        """
        inputs: list[Tensor] = []

        def catch(_: Any, args: tuple[Any, ...]) -> None:
            inputs.append(args[0])
            raise StopForward

        hook = self.model.head.register_forward_pre_hook(catch)
        try:
            with torch.no_grad():
                self._run(window, lambda *_, **__: (hidden,) if self.tuples else hidden)
        finally:
            hook.remove()
        return inputs[0]

    def logits(self, window: Tensor, hidden: Tensor) -> Tensor:
        """Return the model's logits, (1, tokens, vocabulary); the head must be loaded.

        window: token ids, (1, tokens); hidden: the last block's output, (1, tokens, width). The
        logits have gradients where `hidden` takes them.
        """
        with torch.set_grad_enabled(hidden.requires_grad):
            out = self._run(window, lambda *_, **__: (hidden,) if self.tuples else hidden)
        logits: Tensor = out.logits
        return logits

    def _run(self, window: Tensor, stand_in: Callable[..., Any]) -> Any:
        """Run the model with `stand_in` in the place of every block; None where it was stopped."""
        for block in self.model.blocks:
            block.forward = stand_in
        try:
            with contextlib.suppress(StopForward):
                return self.model.net(input_ids=window, use_cache=False)
            return None
        finally:
            for block in self.model.blocks:
                del block.forward


def run_block(block: nn.Module, hidden: Tensor, arguments: Arguments) -> Tensor:
    """Return a block's output for hidden states and its other arguments.

    It has gradients where the hidden states take them.
    """
    with torch.set_grad_enabled(hidden.requires_grad):
        out = block(hidden, *arguments[0], **arguments[1])
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def block_influence(before: Iterable[ArrayLike], after: Iterable[ArrayLike]) -> float:
    """Return how much a block turns its hidden states: 1 - mean cosine of its input and output.

    That is ShortGPT's block influence (arXiv 2403.03853). before, after: (windows, tokens, width),
    read window by window.
    """
    means = []
    for x, y in zip(before, after, strict=True):
        means.append(
            torch.cosine_similarity(torch.tensor(x), torch.tensor(y), dim=-1).mean().item()
        )
    return float(1 - sum(means) / len(means))
