"""The solver: few measurements, a model of the quantization loss, the best mix under the limits.

1. Every type once, whole (the files that mixes are put together from), three of them measured: the
   type curve.
2. Groups of tensors (class x depth) at the lowest type with all others at the highest: their
   sensitivities. Of larger models only embedding and output: a backward pass says the others'.
3. The best mix by the fitted model; measured; the model fitted again; until it promises no more
   than could be distinguished from noise.
4. While evaluations are left: mixes of the same limits that are best by parameters drawn from the
   model's uncertainty, on a quarter of the text; the best of them on all of it, and from there
   again as under 3.
5. Where memory binds, the same with a smaller KV cache; where no quantization holds the limits,
   without a block.
6. The winner tuned end to end; where bytes count, a smaller mix that tuning is expected to bring
   under the limit first.
7. The stock preset next below in size, so that nothing is delivered that measured worse.
"""

from __future__ import annotations

from sintra.config.study import Study
from sintra.core.types import Proposal
from sintra.planning.solver.finishing import propose_end
from sintra.planning.solver.improvement import propose_improvement
from sintra.planning.solver.search import open_search
from sintra.planning.state import PlannerState


def propose(study: Study, state: PlannerState) -> list[Proposal]:
    """Propose the next round."""
    search, first = open_search(study, state)
    if first or search is None:
        return first
    return propose_improvement(search) or propose_end(search)
