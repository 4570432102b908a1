"""Collect what a study knows of its winner, tensor by tensor: types, bits, sensitivities, what was
left out and what that cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from sintra.build.step import Step
from sintra.core.artifact import Artifact
from sintra.core.recipe import Recipe, variant_name
from sintra.formats.gguf.sizes import resolve_types
from sintra.formats.gguf.tensor_names import renumber_tensor
from sintra.planning.solver.search import Search, open_search, propose_probes
from sintra.planning.solver.surrogate import Surrogate
from sintra.planning.state import PlannerState
from sintra.results.finished import FinishedStudy
from sintra.results.result import model_file
from sintra.study import candidates
from sintra.study.planner_state import planner_state_of
from sintra.study.variant_names import study_names

Layout = dict[str, Any]  # layout.json; a tensor in it is [name, type, bytes, shape]
Say = Callable[[str], None]
MIXED = ("solver", "hybrid", "llm", "imatrix_mse", "optuna", "random")  # planners of mixes


@dataclass(frozen=True)
class TensorCell:
    """A matrix of a variant; None where nothing is known."""

    type: str  # of ggml, such as "Q4_K"
    bits: float  # bits per weight
    bytes: int
    shape: list[int]
    share: float | None  # of the quality loss that the solver's model predicts, 0 to 1
    error: float | None  # relative error of the layer's output


@dataclass(frozen=True)
class TensorFigure:
    """One variant, by the names that its tensors have in the original."""

    name: str  # the recipe's name
    bytes: int  # of all tensors
    kld: float | None  # mean KL divergence, nats; None where it was not measured
    kld_error: float | None  # standard error of kld, nats
    bits: float  # bits per weight over all matrices
    dropped: list[int]  # blocks that were left out, from 0
    left_out: str  # what was left out, in words
    kv: str  # type of the KV cache
    tensors: dict[str, TensorCell]  # name in the original -> matrix
    norms: list[str]  # types of the vectors
    matrices: list[str]  # names of all matrices of the original

    @property
    def has_shares(self) -> bool:
        """Return whether any tensor's share of the quality loss is known."""
        return any(cell.share is not None for cell in self.tensors.values())

    @property
    def has_errors(self) -> bool:
        """Return whether any tensor's relative output error is known."""
        return any(cell.error is not None for cell in self.tensors.values())


@dataclass(frozen=True)
class GroupProbe:
    """A group of tensors that was measured alone at the lowest type, all else at the highest."""

    group: str
    type: str  # the lowest type
    kld: float  # on the search text, nats
    error: float  # standard error of kld, nats


@dataclass(frozen=True)
class TensorMap:
    """The winner, and the stock preset that is nearest to it in size."""

    model: str
    hardware: str  # the device's title
    winner: TensorFigure
    layers: int  # blocks of the original
    stock: TensorFigure | None  # None where the study made no preset
    cost: str | None  # what leaving blocks out cost, in words; None where none was left out
    probes: list[GroupProbe]  # the most sensitive group first
    modelled: bool  # whether the study fitted a model of the quality loss

    @property
    def figures(self) -> list[TensorFigure]:
        """Return the winner and, where there is one, the stock preset."""
        return [self.winner, *([self.stock] if self.stock else [])]

    @property
    def has_shares(self) -> bool:
        """Return whether the winner's shares of the quality loss are known."""
        return self.winner.has_shares


def read_tensor_map(done: FinishedStudy, say: Say) -> TensorMap:
    """Collect the map of a study's winner; models that the store has not are built, with a line
    for each. Raises UserError where a step fails.
    """
    base = read_step_layout(done, done.graph.convert(), say)
    measured = candidates.collect_candidates(done.graph, done.store, done.rounds)
    proposals = [r.proposals for r in done.rounds]
    state = planner_state_of(done.graph, done.store, proposals, measured)
    search = fitted_search(done, state)
    surrogate = search.surrogate if search else None
    names = study_names(done.graph, done.store, done.rounds)
    winner = tensor_figure(done, done.recipe, base, state, surrogate, names, say)
    stock = nearest_stock(done, state)
    return TensorMap(
        model=done.workspace.study.model,
        hardware=done.workspace.study.hardware.title,
        winner=winner,
        layers=base["shape"]["layers"],
        stock=tensor_figure(done, stock, base, state, None, names, say) if stock else None,
        cost=cost_of_cut(done, state, winner) if done.recipe.cut else None,
        probes=group_probes(search),
        modelled=surrogate is not None,
    )


def read_step_layout(done: FinishedStudy, step: Step, say: Say) -> Layout:
    """Read the layout of a step's GGUF. Raises UserError where the step fails."""
    layout: Layout = done.store.read_json(done.build_artifact(step, say), "layout.json")
    return layout


def fitted_search(done: FinishedStudy, state: PlannerState) -> Search | None:
    """Open the solver's search with its fitted model; None where too few mixes were measured."""
    if done.workspace.study.planner.name not in MIXED or not state.results.attempts:
        return None
    return open_search(done.workspace.study, state)[0]


def tensor_figure(
    done: FinishedStudy,
    recipe: Recipe,
    base: Layout,
    state: PlannerState,
    surrogate: Surrogate | None,
    names: Mapping[Recipe, str],
    say: Say,
) -> TensorFigure:
    """Collect one variant. base: the original's layout; surrogate: None leaves the shares
    out; names: of the study's variants.
    """
    layout = read_step_layout(done, done.graph.quantize(recipe), say)
    matrices = [tensor for tensor in layout["tensors"] if len(tensor[3]) > 1]
    original_name = {
        new: t[0] for t in base["tensors"] if (new := renumber_tensor(t[0], list(recipe.drop)))
    }
    rows = {original_name[row[0]]: row for row in matrices if row[0] in original_name}
    types = {name: row[1] for name, row in rows.items()}
    shares = predicted_shares(surrogate, types) if recipe.complete else {}
    errors = output_errors(state, recipe, types)
    cells = {
        name: tensor_cell(row, shares.get(name), errors.get(name)) for name, row in rows.items()
    }
    kld = state.results.kld(recipe, "report") or state.results.kld(recipe, "search")
    weights = sum(math.prod(row[3]) for row in matrices)
    return TensorFigure(
        name=names.get(recipe) or variant_name(recipe),
        bytes=sum(tensor[2] for tensor in layout["tensors"]),
        kld=kld.value if kld else None,
        kld_error=kld.stderr if kld else None,
        bits=8 * sum(cell.bytes for cell in cells.values()) / weights,
        dropped=list(recipe.drop),
        left_out=recipe.cut_words,
        kv=recipe.kv,
        tensors=cells,
        norms=sorted({tensor[1] for tensor in layout["tensors"] if len(tensor[3]) == 1}),
        matrices=[tensor[0] for tensor in base["tensors"] if len(tensor[3]) > 1],
    )


def tensor_cell(row: list[Any], share: float | None, error: float | None) -> TensorCell:
    """Return a tensor of a layout, [name, type, bytes, shape], as a cell."""
    _, kind, size, shape = row
    return TensorCell(kind, 8 * size / math.prod(shape), size, shape, share, error)


def predicted_shares(surrogate: Surrogate | None, types: dict[str, str]) -> dict[str, float]:
    """Return each tensor's share of the quality loss that the fitted model predicts; nothing where
    it doesn't know one of the types. types: tensor -> type.
    """
    weights = surrogate.weights() if surrogate else {}
    if any(type_ not in weights.get(name, {}) for name, type_ in types.items()):
        return {}
    losses = {name: weights[name][type_] for name, type_ in types.items()}
    total = sum(losses.values())
    return {name: loss / total for name, loss in losses.items()} if total else {}


def output_errors(state: PlannerState, recipe: Recipe, types: dict[str, str]) -> dict[str, float]:
    """Return the relative error of each layer's output, tr(E H E') / tr(W H W').

    It was measured on the uniform file of the tensor's type that was rounded the same way. Nothing
    is returned for a stock preset, which isn't put together from those. types: tensor -> type.
    """
    if not recipe.complete or recipe.finished:
        return {}
    by_type = {
        uniform.tensors[0][1]: distortion
        for uniform, distortion in state.model.distortion.items()
        if (uniform.rounding, uniform.importance) == (recipe.rounding, recipe.importance)
    }
    return {
        name: by_type[type_][name]["output"]
        for name, type_ in types.items()
        if name in by_type.get(type_, {})
    }


def nearest_stock(done: FinishedStudy, state: PlannerState) -> Recipe | None:
    """Return the stock preset that the study made whose size is nearest to the winner's."""
    target = model_file(done.winner)["bytes"]
    sizes = {r: n for r, n in state.results.file_bytes.items() if not r.tensors and not r.cut}
    sizes |= {
        c.recipe: c.artifact.size
        for c in state.results.candidates
        if c.artifact and not c.recipe.tensors and not c.recipe.cut
    }
    sizes.pop(done.recipe, None)
    presets = {r: n for r, n in sizes.items() if r.rounding == "nearest"}
    return min(presets, key=lambda r: (abs(presets[r] - target), r.importance), default=None)


def cost_of_cut(done: FinishedStudy, state: PlannerState, winner: TensorFigure) -> str:
    """Return in words what leaving blocks out did to the KLD, against a measured variant with the
    same types and all blocks.
    """
    types = {name: cell.type for name, cell in winner.tensors.items()}
    for other in state.results.candidates:
        if other.recipe.cut or not isinstance(
            done.graph.quantize(other.recipe).outcome(done.store), Artifact
        ):
            continue
        other_types = resolve_types(other.recipe.tensors, types)
        whole, cut = (
            state.results.kld(other.recipe, "search"),
            state.results.kld(done.recipe, "search"),
        )
        if other_types == types and whole and cut:
            return (
                f"{cut.value:.5f} nats on the search text against {whole.value:.5f} with all "
                f"blocks and the same types: {cut.value - whole.value:.5f} more"
            )
    return (
        "no variant with the same types and all blocks was measured, so what the drop cost alone "
        "is not known"
    )


def group_probes(search: Search | None) -> list[GroupProbe]:
    """Return every group that was measured alone at the lowest type, the most sensitive first."""
    if search is None:
        return []
    settings = search.settings
    groups = settings.probed_groups(search.space, search.sizes)
    proposals = propose_probes(settings, search.space, groups)
    probes = []
    for group, proposal in zip(groups, proposals, strict=True):
        kld = search.state.results.kld(proposal.recipe, "search")
        if kld:
            probes.append(GroupProbe(group, settings.types[0], kld.value, kld.stderr or 0.0))
    return sorted(probes, key=lambda probe: -probe.kld)
