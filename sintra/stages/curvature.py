"""The curvature of every linear layer: X'X over the calibration text and a share of random tokens,
X being the layer's inputs, (tokens, columns).

Compensated rounding (sintra.rounding) works in this metric, and its diagonal over the text is the
importance matrix that llama.cpp's quantizers weigh errors by: one pass serves both. Layers that
read the same input (query, key and value; gate and up) share one matrix; every expert has its own.
The model is run block by block, so that one block and its matrices are in memory; a killed run goes
on at its block. The tokens are llama.cpp's own, from the converted model's vocabulary.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra import lazy
from sintra.errors import Infeasible
from sintra.stage import Context, Stage
from sintra.store import link_or_copy
from sintra.stream import Model, Passing, call, influence

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")


def run(context: Context) -> None:
    """Write NNN.npy (columns, columns) float32, mean over tokens; curvature.json; importance.npz.

    curvature.json: {"tensors": {GGUF tensor name: the number of its matrix, or a list of them, one
    for each expert}, "influence": [of each block, see sintra.stream.influence], "tokens",
    "unmapped": [[tensor, reason]]}. importance.npz: GGUF tensor name -> float32 vector of the row's
    length.
    """
    from sintra.layers import expert_names, gguf_names
    from sintra.layout import read_layout
    from sintra.llama import Model as Llama
    from sintra.llama import noise

    torch.set_num_threads(context.threads)
    path = context.inputs["gguf"] / "model.gguf"
    layout = read_layout(path)
    size = min(context.params["context"], layout["context"] or context.params["context"])
    tokenizer = Llama(path, size, context.threads, vocab_only=True)
    windows = tokenizer.windows(
        (context.inputs["text"] / "text.txt").read_text(), context.params["tokens"]
    )
    normal = tokenizer.normal_tokens()
    tokenizer.close()
    model = Model(context.inputs["model"])
    names = gguf_names(model.net, layout)
    if not names:
        raise Infeasible(
            "unsupported",
            f"no linear layer of a {layout['architecture']} could be mapped to its GGUF tensor",
        )
    if model.whole:
        context.say("the checkpoint's names aren't the modules': the whole model is loaded at once")
    context.keep.mkdir(parents=True, exist_ok=True)
    everything = np.concatenate(
        [windows, noise(len(windows), size, context.params["random"], normal)]
    )
    found = walk(
        model, names, expert_names(model.net), path, Calibration(everything, len(windows)), context
    )
    if layout["shape"]["tied"] and "output.weight" in found.of:
        found.of["token_embd.weight"] = found.of.pop("output.weight")
    publish(found, context)


Bank = tuple[str, str, str]


@dataclass(frozen=True)
class Calibration:
    """Windows of token ids, (n, tokens); the first `plain` are text, the others random."""

    windows: Any
    plain: int


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


def walk(
    model: Model,
    names: dict[str, str],
    experts: dict[str, Bank],
    gguf: Path,
    text: Calibration,
    context: Context,
) -> Found:
    """All blocks, then the output head; every block's matrices are written to keep/NNN.npy when it
    is done.
    """
    keep, parts, windows = context.keep, Passing(model), text.windows
    from sintra.gguf_header import reader as opened

    found, held = Found.load(keep), {t.name: t for t in opened(gguf).tensors}
    count, start, resumed = len(model.blocks), time.monotonic(), found.blocks
    width = parts.first(as_batch(windows[0])).shape[
        -1
    ]  # also learns what the blocks are called with
    if found.blocks == 0:
        hidden = states(keep / "hidden-0.npy", windows, width)
        for i, window in enumerate(windows):
            hidden[i] = parts.first(as_batch(window))[0].float().numpy()
        hidden.flush()
    for number in range(found.blocks, count):
        block = model.load(number)
        own, banks = (prefixed(n, f"{model.prefix}.{number}.") for n in (names, experts))
        inputs = Inputs(
            proven(model, held, own, found.unmapped),
            proven_banks(model, held, banks, found.unmapped),
        )
        before = np.load(keep / f"hidden-{number}.npy", mmap_mode="r")
        after = states(keep / f"hidden-{number + 1}.npy", windows, width)
        with inputs.watching(model.net):
            for i in range(len(windows)):
                inputs.begin(i < text.plain)
                after[i] = call(
                    block, torch.from_numpy(np.array(before[i : i + 1])), parts.calls[number]
                )[0].numpy()
        after.flush()
        found.influence.append(influence(before[: text.plain], after[: text.plain]))
        model.drop(number)
        inputs.write(found, keep)
        found.blocks = number + 1
        found.save(keep)
        (keep / f"hidden-{number}.npy").unlink()
        pace = (time.monotonic() - start) / (number + 1 - resumed)
        context.say(f"block {number + 1} of {count}, {pace * (count - number - 1):.0f} s left")
    if found.blocks == count:
        own = {n: t for n, t in names.items() if n == model.head_name}
        hidden = np.load(keep / f"hidden-{count}.npy", mmap_mode="r")
        for name in proven(model, held, own, found.unmapped).values():
            inputs = Inputs({})
            for i, window in enumerate(windows):
                inputs.begin(i < text.plain)
                inputs.add(
                    name,
                    parts.last(as_batch(window), torch.from_numpy(np.array(hidden[i : i + 1]))),
                )
            inputs.write(found, keep)
        found.blocks += 1
        found.save(keep)
    return found


def as_batch(window: Any) -> Tensor:
    """One window of token ids, (1, tokens)."""
    return torch.from_numpy(np.asarray(window)).long()[None]


def states(path: Path, windows: Any, width: int) -> Any:
    """Room for the hidden states between two blocks, (windows, tokens, width) float32, on disk."""
    return np.lib.format.open_memmap(path, "w+", np.float32, (*windows.shape, width))


def prefixed(names: dict[str, Any], start: str) -> dict[str, Any]:
    """The layers of one block."""
    return {n: t for n, t in names.items() if n.startswith(start)}


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
    model: Model, held: dict[str, Any], names: dict[str, str], bad: list[list[str]]
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
    model: Model, held: dict[str, Any], banks: dict[str, Bank], bad: list[list[str]]
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


def publish(found: Found, context: Context) -> None:
    """From keep to out, with the diagonals over the text alone as the importance matrix."""
    diagonals = []
    for number in range(len(found.hits)):
        name = f"{number:03}.npy"
        link_or_copy(context.keep / name, context.out / name)
        diagonals.append(np.load(context.keep / f"{number:03}.diagonal.npy"))
    rows = {
        n: np.concatenate([diagonals[i] for i in ([of] if isinstance(of, int) else of)])
        for n, of in found.of.items()
    }
    np.savez(context.out / "importance.npz", **rows)  # type: ignore[arg-type]
    about = {"influence": found.influence, "tokens": max(found.hits), "unmapped": found.unmapped}
    context.write_json("curvature.json", {"tensors": found.of, **about})


STAGE = Stage("curvature", 3, run, tools=("torch", "transformers"))
