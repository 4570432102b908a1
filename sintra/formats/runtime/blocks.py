"""A transformers model, block after block: weights are read when a block's turn comes and dropped
when it is over.

Needs a checkpoint in safetensors whose tensor names are the modules' own, or those of single
experts. Other checkpoints (renamed tensors) are loaded whole.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.formats.checkpoint.remote_code import allow_in_process

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn
else:
    torch = lazy.module("torch")

ROWS = 4096
# What a merged parameter of a bank of experts consists of in checkpoints, expert by expert.
MERGED = {
    "gate_up_proj": (("gate_proj", "up_proj"), ("w1", "w3")),
    "down_proj": (("down_proj",), ("w2",)),
}


class CheckpointTensors:
    """The tensors of a folder's safetensors files, by name."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        index = folder / "model.safetensors.index.json"
        names = (
            sorted(set(json.loads(index.read_text())["weight_map"].values()))
            if index.exists()
            else ["model.safetensors"]
        )
        self.files: list[Any] = [
            safe_open(folder / n, framework="pt") for n in names if (folder / n).exists()
        ]
        self.of: dict[str, Any] = {name: file for file in self.files for name in file.keys()}  # noqa: SIM118

    def parts(self, name: str) -> list[list[str]] | None:
        """The checkpoint's tensors that a module's parameter is made of, expert by expert; None
        where it has them not.
        """
        for own in (name, name.replace(".mlp.", ".block_sparse_moe.")):
            if own in self.of:
                return [[own]]
            bank, _, last = own.rpartition(".")
            for kinds in MERGED.get(last, ()):
                found: list[list[str]] = []
                while all(f"{bank}.{len(found)}.{k}.weight" in self.of for k in kinds):
                    found.append([f"{bank}.{len(found)}.{k}.weight" for k in kinds])
                if found:
                    return found
        return None

    def get(self, name: str) -> Tensor:
        """A parameter in float32, assembled where the checkpoint has it in parts."""
        parts = self.parts(name)
        assert parts is not None, name
        if len(parts) == 1 and len(parts[0]) == 1:
            tensor: Tensor = self.of[parts[0][0]].get_tensor(parts[0][0])
            return tensor.float()
        return torch.stack(
            [torch.cat([self.of[n].get_tensor(n).float() for n in row]) for row in parts]
        )

    def rows(self, name: str) -> Iterator[Tensor]:
        """A matrix in slices of rows, in float32."""
        part = self.of[name].get_slice(name)
        for start in range(0, part.get_shape()[0], ROWS):
            yield part[start : start + ROWS].float()


class BlockModel:
    """A causal language model whose blocks are loaded one at a time; `whole` where it had to be
    loaded at once.
    """

    def __init__(self, folder: Path) -> None:
        trust = allow_in_process(folder)
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
        kind: Any = transformers.AutoModelForCausalLM
        with init_empty_weights():
            self.net: Any = kind.from_config(config, dtype=torch.float32, trust_remote_code=trust)
        self.checkpoint = CheckpointTensors(folder)
        tied = self.tied = dict(getattr(self.net, "all_tied_weights_keys", None) or {})
        self.whole = any(
            self.checkpoint.parts(n) is None
            for n, _ in self.net.named_parameters()
            if n not in tied
        )
        if self.whole:
            self.net = kind.from_pretrained(
                folder, dtype=torch.float32, trust_remote_code=trust, use_safetensors=True
            )
        self.net.train(False)
        self.prefix, self.blocks = find_blocks(self.net, config.get_text_config().num_hidden_layers)
        self.head: nn.Module = self.net.get_output_embeddings()
        self.head_name = next(n for n, m in self.net.named_modules() if m is self.head)
        if not self.whole:
            self._load_rest()

    def _load_rest(self) -> None:
        """Everything outside the blocks but the output head, whose product nobody needs."""
        own = self.head_name + "."
        names = [
            n
            for n in self.net.state_dict()
            if not n.startswith((self.prefix + ".", own)) and self.checkpoint.parts(n)
        ]
        self.net.load_state_dict(
            {n: self.checkpoint.get(n) for n in names}, strict=False, assign=True
        )

    def load(self, number: int) -> nn.Module:
        """A block with its weights."""
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

    def rows(self, module: str) -> Iterator[Tensor]:
        """A linear layer's weight in slices of rows, read from the checkpoint where there is one to
        read.
        """
        name = f"{module}.weight"
        if name not in self.checkpoint.of:
            name = self.tied.get(name, name)
        if not self.whole and name in self.checkpoint.of:
            yield from self.checkpoint.rows(name)
        else:
            weight = self.net.get_submodule(module).weight
            assert isinstance(weight, torch.Tensor)
            for start in range(0, len(weight), ROWS):
                yield weight[start : start + ROWS].detach().float()


def find_blocks(net: nn.Module, count: int) -> tuple[str, nn.ModuleList]:
    """The list of the model's blocks and its name."""
    for name, module in net.named_modules():
        if isinstance(module, torch.nn.ModuleList) and len(module) == count:
            return name, module
    raise ValueError(f"no list of {count} blocks")


class StopForward(Exception):
    """Enough of the model has been run."""


class OuterLayers:
    """Runs the parts around the blocks: what goes into the first, what each block is called with,
    what follows the last.
    """

    def __init__(self, model: BlockModel) -> None:
        self.model = model
        self.calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        self.tuples = False

    def first(self, window: Tensor) -> Tensor:
        """The input of block 0, (1, tokens, width); `calls` has every block's other arguments
        afterwards.
        """
        found: list[Tensor] = []
        self.calls = []

        def idle(x: Tensor, *args: Any, **named: Any) -> Any:
            found.append(x)
            self.calls.append((args, named))
            if x.dim() < found[0].dim() or len(found) == len(self.model.blocks):
                raise StopForward
            return (x,) if self.tuples else x

        self._run(window, idle)
        if (
            found[-1].dim() < found[0].dim()
        ):  # the model took the first of what it thought was a tuple
            self.tuples = True
            return self.first(window)
        return found[0]

    def last(self, window: Tensor, hidden: Tensor) -> Tensor:
        """The output head's input, given the last block's output."""
        found: list[Tensor] = []

        def catch(_: Any, args: tuple[Any, ...]) -> None:
            found.append(args[0])
            raise StopForward

        hook = self.model.head.register_forward_pre_hook(catch)
        try:
            self._run(window, lambda *_, **__: (hidden,) if self.tuples else hidden)
        finally:
            hook.remove()
        return found[0]

    def _run(self, window: Tensor, idle: Callable[..., Any]) -> None:
        """The model with `idle` in the place of every block."""
        for block in self.model.blocks:
            block.forward = idle
        try:
            with torch.no_grad(), contextlib.suppress(StopForward):
                self.model.net(input_ids=window, use_cache=False)
        finally:
            for block in self.model.blocks:
                del block.forward


def run_block(
    block: nn.Module, hidden: Tensor, arguments: tuple[tuple[Any, ...], dict[str, Any]]
) -> Tensor:
    """A block's output."""
    with torch.no_grad():
        out = block(hidden, *arguments[0], **arguments[1])
    first: Tensor = out[0] if isinstance(out, tuple) else out
    return first


def block_influence(before: Any, after: Any) -> float:
    """How much a block turns its hidden states: 1 - mean cosine of its input and its output over
    all tokens (ShortGPT's block influence, arXiv 2403.03853). before, after: (windows, tokens,
    width), read window by window.
    """
    means = []
    for x, y in zip(before, after, strict=True):
        means.append(
            torch.cosine_similarity(torch.tensor(x), torch.tensor(y), dim=-1).mean().item()
        )
    return float(1 - sum(means) / len(means))
