"""What to leave out: the blocks that turn the hidden states least, dropped and measured again, one
after the other; where the runtime can, the attention of one of them alone.
"""

from __future__ import annotations

from collections.abc import Iterable

from sintra.config.study import Study
from sintra.core.judge import judge, ranked
from sintra.core.types import Candidate
from sintra.formats.gguf.attention import SOURCE_ARCHITECTURES
from sintra.planning.state import History

SHORTLIST, FEWEST = 3, 4
POCKETS = (1 / 3, 3 / 4)

Drop = tuple[int, ...]
Cut = tuple[Drop, Drop]  # whole blocks, and blocks that only their attention is left out of


def candidates(study: Study, history: History) -> list[Drop]:
    """Sets of blocks to try next, or none: only where nothing else holds the limits, since without
    healing a dropped block costs more than bits do.

    One block more than the best set so far, from the SHORTLIST blocks of least influence that it
    keeps (SLEB's greedy drop-and-remeasure, arXiv 2402.09025, on a shortlist by ShortGPT's block
    influence, arXiv 2403.03853).
    """
    most, layers = study.planner.max_dropped, history.layers or 0
    order = ranked(history.candidates, study.goal)
    if not most or layers < FEWEST or not order or not judge(order[0], study.goal).violated:
        return []
    measured = {c.recipe.drop for c in history.candidates if c.recipe.drop}
    held = best(order)
    if len(held) >= most or any(len(d) == len(held) + 1 for d in measured):
        return []
    return longer(held, history.influence, layers, history.pockets or POCKETS)


def cuts(study: Study, history: History) -> list[Cut]:
    """What to try next: `candidates`, and before any block is gone the attention alone of the same
    blocks, which saves fewer bytes, and for large models does far less damage than its share of the
    weights (arXiv 2406.15786).
    """
    whole = candidates(study, history)
    first = (
        whole
        and all(len(d) == 1 for d in whole)
        and not any(c.recipe.no_attention for c in history.candidates)
    )
    able = history.architecture in SOURCE_ARCHITECTURES and (
        history.shape is None or history.shape.active == 1
    )
    return [*(((), d) for d in whole if first and able and d != (0,)), *((d, ()) for d in whole)]


def best(order: Iterable[Candidate]) -> Drop:
    """The longest set that was measured, the best of its length; () where none was."""
    dropped = [c.recipe.drop for c in order if c.recipe.drop]
    longest = max((len(d) for d in dropped), default=0)
    return next((d for d in dropped if len(d) == longest), ())


def longer(
    held: Drop, influence: tuple[float, ...], layers: int, pockets: tuple[float, ...] = POCKETS
) -> list[Drop]:
    """The set with one block more, for each of the blocks of least influence; where that is
    unknown, of the pockets of depth (0 to 1) that are known to lose least: conf/arch's, else a
    third and three quarters (EvoPress, arXiv 2410.14649).
    """
    if len(influence) != layers:
        blocks = sorted({min(int(p * layers), layers - 2) for p in pockets} - set(held))
        return [tuple(sorted((*held, b))) for b in blocks]
    left = sorted((b for b in range(layers) if b not in held), key=lambda b: influence[b])
    return [tuple(sorted((*held, b))) for b in left[:SHORTLIST]]
