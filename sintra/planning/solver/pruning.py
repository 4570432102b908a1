"""What to leave out: the blocks that turn the hidden states least, dropped and measured again, one
after the other; where the runtime can, the attention of one of them alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from sintra.config.study import Study
from sintra.core.judge import judge, ranked
from sintra.core.types import Candidate
from sintra.formats.gguf.attention import SOURCE_ARCHITECTURES
from sintra.planning.state import ModelFacts, PlannerState

SHORTLIST = 3  # blocks of least influence that are tried
FEWEST_LAYERS = 4  # a model with fewer keeps all its blocks
POCKETS = (1 / 3, 3 / 4)  # depths at which blocks lose least (EvoPress, arXiv 2410.14649)

BlockSet = tuple[int, ...]  # numbers of blocks, ascending
Cut = tuple[BlockSet, BlockSet]  # whole blocks, and blocks that only lose their attention


def block_sets_to_try(study: Study, state: PlannerState) -> list[BlockSet]:
    """Return the sets of blocks to drop next, or none.

    Only where nothing else holds the limits, since without healing a dropped block costs more than
    bits do. One block more than the best set so far, from the SHORTLIST blocks of least influence
    that it keeps (SLEB's greedy drop-and-remeasure, arXiv 2402.09025, on a shortlist by ShortGPT's
    block influence, arXiv 2403.03853).
    """
    most, layers = study.planner.max_dropped, state.model.layers or 0
    order = ranked(state.results.candidates, study.goal)
    if not most or layers < FEWEST_LAYERS or not order or not judge(order[0], study.goal).violated:
        return []
    measured = {c.recipe.drop for c in state.results.candidates if c.recipe.drop}
    dropped = best_block_set(order)
    if len(dropped) >= most or any(len(d) == len(dropped) + 1 for d in measured):
        return []
    return extended_block_sets(
        dropped, state.model.influence, layers, state.model.pockets or POCKETS
    )


def cuts_to_try(study: Study, state: PlannerState) -> list[Cut]:
    """Return what to leave out next: sets of blocks, and first the attention of the same blocks.

    The attention alone is tried before any block is gone. It saves fewer bytes, and for large
    models it costs far less quality than its share of the weights (arXiv 2406.15786).
    """
    block_sets = block_sets_to_try(study, state)
    first_cut = all(len(blocks) == 1 for blocks in block_sets) and not any(
        c.recipe.no_attention for c in state.results.candidates
    )
    attention: list[Cut] = []
    if first_cut and can_skip_attention(state.model):
        attention = [((), blocks) for blocks in block_sets if blocks != (0,)]
    return [*attention, *((blocks, ()) for blocks in block_sets)]


def can_skip_attention(model: ModelFacts) -> bool:
    """Say whether the runtime can leave out the attention of single blocks of a model."""
    return model.architecture in SOURCE_ARCHITECTURES and (
        model.shape is None or model.shape.active == 1
    )


def best_block_set(order: Iterable[Candidate]) -> BlockSet:
    """Return the longest set of dropped blocks that was measured, the best of its length.

    order: candidates, the best first. () where no block was dropped.
    """
    dropped = [c.recipe.drop for c in order if c.recipe.drop]
    longest = max((len(d) for d in dropped), default=0)
    return next((d for d in dropped if len(d) == longest), ())


def extended_block_sets(
    dropped: BlockSet,
    influence: tuple[float, ...],
    layers: int,
    pockets: tuple[float, ...] = POCKETS,
) -> list[BlockSet]:
    """Return the set with one block more, for each of the blocks of least influence.

    influence: by block; where it is unknown, the blocks at the pockets (depths from 0 to 1) are
    taken.
    """
    if len(influence) == layers:
        rest = sorted((b for b in range(layers) if b not in dropped), key=lambda b: influence[b])
        blocks = rest[:SHORTLIST]
    else:
        blocks = sorted({min(int(p * layers), layers - 2) for p in pockets} - set(dropped))
    return [tuple(sorted((*dropped, b))) for b in blocks]
