"""Refining: a finished variant rounded anew, block after block, in the same layout.

Each layer is rounded from the inputs that it will really have (sintra.stages.rounding.sequential).
Each block's rounding is then learned (sintra.stages.rounding.learned), unless no steps are asked
for. Scales and codes change, the types stay.

The model is run block by block, its weights read when a block's turn comes. So it takes two blocks'
weights, one layer's matrices, at most 1 GiB of layers' inputs and, on disk, twice two models'
hidden states and the file. A killed run goes on at its block and makes the same file (on as many
threads).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.sizes import BLOCK_NAME
from sintra.formats.gguf.tensor_names import expert_names
from sintra.formats.runtime.blocks import BlockModel
from sintra.formats.runtime.calibration_text import calibration_windows
from sintra.stages.rounding.effort import learning_steps, refine_tokens
from sintra.stages.rounding.learned import HeldOutError
from sintra.stages.rounding.sequential import HiddenStates, SequentialRounder
from sintra.stages.rounding.tensors import parameter_tensors, read_tensors, writable_tensors
from sintra.store.files import write_atomic

if TYPE_CHECKING:
    import numpy as np
    import torch

    from sintra.formats.gguf.mapped import MappedTensor
else:
    np = lazy.module("numpy")
    torch = lazy.module("torch")

STATES = ("exact", "quantized")  # whose hidden states are kept


def run(context: Context) -> None:
    """Write model.gguf and layout.json.

    inputs: gguf (a variant with all its blocks), source (the 16-bit GGUF), model (the checkpoint),
    text (calibration). layout["refined"]: the tensors that were rounded anew; layout["learned"]: of
    each block that learned, the held-out error before and after.
    Raises Infeasible for banks of experts, and where the checkpoint doesn't fit the file.
    """
    torch.set_num_threads(context.threads)
    source, variant = context.inputs["source"] / "model.gguf", context.inputs["gguf"]
    layout = json.loads((variant / "layout.json").read_text())
    parameters = layout["shape"]["parameters"]
    token_count = refine_tokens(context.params["tokens"], parameters)
    windows = calibration_windows(context, source, layout, token_count).tokens
    # Shuffled, so that every kind of text is among the held-out windows.
    windows = windows[np.random.default_rng(0).permutation(len(windows))]
    model = BlockModel(context.inputs["model"])
    if expert_names(model.net):
        raise Infeasible("unsupported", "rounding in sequence: banks of experts aren't taken apart")
    kept = KeptRun(context.keep, variant / "model.gguf", (*windows.shape, layout["shape"]["width"]))
    with writable_tensors(kept.target) as tensors:
        rounder = SequentialRounder(
            model,
            parameter_tensors(model.net, layout),
            tensors,
            read_tensors(source),
            context.say,
            learning_steps(context.params["steps"], parameters),
        )
        kept.resume(rounder)
        layout["refined"] = rounder.run(
            torch.from_numpy(windows).long(),
            kept.states,
            kept.progress.blocks,
            lambda blocks: kept.save(blocks, rounder),
        )
        layout["learned"] = rounder.learned
    if read_layout(kept.target)["tensors"] != layout["tensors"]:
        raise RuntimeError("rounding in sequence changed the layout")
    shutil.copyfile(kept.target, context.out / "model.gguf")
    context.write_json("layout.json", layout)


@dataclass
class RefineProgress:
    """What a run has done so far; saved behind every block."""

    blocks: int = 0  # blocks that are done
    rounded: list[str] = field(default_factory=list)  # GGUF names of the tensors
    learned: list[list[float]] = field(default_factory=list)  # HeldOutError of each block


class KeptRun:
    """The files of a run that may be killed: the GGUF, both models' hidden states, the progress."""

    progress: RefineProgress
    """What an earlier run has done."""
    states: HiddenStates
    """Both models' hidden states, (windows, tokens, width) float32 on disk; behind the blocks that
    are done."""

    def __init__(self, folder: Path, variant: Path, shape: tuple[int, ...]) -> None:
        """Go on from what is in the folder, or begin with a copy of `variant`, a GGUF.

        shape: of the hidden states.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.variant, self.target = folder, variant, folder / "model.gguf"
        self.progress = read_progress(folder / "progress.json")
        if self.progress.blocks == 0:
            shutil.copyfile(variant, self.target)
            mode = "w+"
        else:
            mode = "r+"
            for name in STATES:
                shutil.copyfile(self.saved_states(name, self.progress.blocks), self.working(name))
        exact, quantized = (
            np.lib.format.open_memmap(self.working(name), mode, np.float32, shape)
            for name in STATES
        )
        self.states = HiddenStates(exact, quantized)

    def working(self, name: str) -> Path:
        """Return the file of the hidden states that the present block overwrites."""
        return self.folder / f"{name}.npy"

    def saved_states(self, name: str, blocks: int) -> Path:
        """Return the file of the hidden states behind so many blocks."""
        return self.folder / f"{name}-{blocks}.npy"

    def resume(self, rounder: SequentialRounder) -> None:
        """Take over what was done, and undo what a killed run had begun of the next block."""
        if self.progress.blocks == 0:
            return
        restore_tensors(rounder.tensors, read_tensors(self.variant), self.progress.blocks)
        rounder.rounded += self.progress.rounded
        rounder.learned += [HeldOutError(*errors) for errors in self.progress.learned]

    def save(self, blocks: int, rounder: SequentialRounder) -> None:
        """Keep what is done: the states first, so that progress.json never names what isn't there.

        The GGUF is a shared mapping: what was written to it outlives the process.
        """
        for name, states in zip(STATES, (self.states.exact, self.states.quantized), strict=True):
            states.flush()  # type: ignore[attr-defined]
            shutil.copyfile(self.working(name), self.saved_states(name, blocks))
        learned = [list(errors) for errors in rounder.learned]
        progress = RefineProgress(blocks, list(rounder.rounded), learned)
        write_atomic(self.folder / "progress.json", json.dumps(asdict(progress)))
        for name in STATES:
            self.saved_states(name, blocks - 1).unlink(missing_ok=True)


def read_progress(path: Path) -> RefineProgress:
    """Return what a killed run has saved; a fresh start where there is nothing sound."""
    try:
        return RefineProgress(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return RefineProgress()


def restore_tensors(
    tensors: Mapping[str, MappedTensor], original: Mapping[str, MappedTensor], blocks: int
) -> None:
    """Put the original's values into the tensors of all blocks from number `blocks` on."""
    for name, tensor in tensors.items():
        number = BLOCK_NAME.match(name)
        if number and int(number[1]) >= blocks:
            tensor.data[:] = original[name].data


STAGE = Stage(
    "refine",
    3,
    run,
    tools=("torch", "transformers"),
    files=("model.gguf", "layout.json"),
    title="Refine",
)
