"""Sensitivities by one backward pass against measured probes.

    python bench/sensitivity.py --model DIR [--texts DIR | --own] [--cache DIR] [key=value ...]

Builds the uniform files, measures the type curve and what lies outside the blocks, fits the model
of the KLD to these, and predicts each group's probe: every tensor of the group in the lowest type,
all else in the highest. Then the probes are measured. Two priors are compared: the backward pass,
and none. Last line: `rms_gradient=... rms_uninformed=...`, root mean squares of
log(predicted / measured) over the groups inside the blocks.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import studies

from sintra.core.types import Proposal
from sintra.planning.solver.mixes import MixSettings, observe_mixes
from sintra.planning.solver.search import propose_probes
from sintra.planning.solver.surrogate import Observation, Prior, Space, fit_surrogate
from sintra.planning.state import PlannerState
from sintra.study import rounds
from sintra.study.candidates import collect_candidates
from sintra.study.planner_state import planner_state_of
from sintra.study.round_files import Round
from sintra.study.workspace import Workspace


def first_measured(workspace: Workspace) -> PlannerState:
    """Build the files; measure the curve and the probes outside the blocks."""
    graph, store = workspace.graph(), workspace.store
    known: list[Round] = []
    while not any(p.probe for r in known for p in r.proposals):
        known.append(rounds.next_round(graph, store, known))
        studies.build(rounds.round_steps(graph, known[-1]), store)
    found = collect_candidates(graph, store, known)
    return planner_state_of(graph, store, [r.proposals for r in known], found)


def compare(
    space: Space,
    known: Sequence[Observation],
    priors: dict[str, Prior],
    probes: Sequence[tuple[Proposal, Observation]],
) -> dict[str, float]:
    """Print a row for each probe; return the root mean square of each prior's log errors."""
    fits = {name: fit_surrogate(space, known, prior) for name, prior in priors.items()}
    squares: dict[str, list[float]] = {name: [] for name in fits}
    for proposal, seen in probes:
        cells = []
        for name, fit in fits.items():
            value, low, high = fit.predict(seen.mix)
            error = math.log(value / seen.value)
            squares[name].append(error**2)
            cells.append(f"{name} {value:.5f} ({low:.5f} to {high:.5f}), {error:+.2f}")
        print(
            f"  {proposal.probe:28} {seen.value:.5f} +- {seen.stderr:.5f}  {'  '.join(cells)}",
            flush=True,
        )
    return {name: math.sqrt(sum(values) / len(values)) for name, values in squares.items()}


def measured(workspace: Workspace, settings: MixSettings, state: PlannerState, space: Space):
    """Measure every probe inside the blocks: (proposal, observation)."""
    graph, store = workspace.graph(), workspace.store
    found = []
    for proposal in propose_probes(settings, space, [g for g in space.group_names if "/" in g]):
        step = graph.variant(proposal.recipe, proposal.level).quality
        assert step is not None
        studies.build(list(step.all()), store)
        results = planner_state_of(graph, store, [[proposal]], []).results
        found += [(proposal, o) for o in observe_mixes(settings, results, space)]
    return found


def main() -> None:
    """One model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, default=studies.ROOT / "models" / "fable_mini")
    parser.add_argument("--texts", type=Path, default=studies.ROOT / "models" / "texts")
    parser.add_argument("--cache", type=Path, help="kept between runs; default: a temporary folder")
    parser.add_argument("--own", action="store_true", help="all texts are the model's own")
    parser.add_argument("overrides", nargs="*", help="key=value, as on the command line")
    options = parser.parse_args()
    texts = ["texts=own"] if options.own else studies.texts(options.texts)
    given = ["hardware=raspberry_pi_5", "planner.sensitivity=gradient", *options.overrides]
    with tempfile.TemporaryDirectory() as scratch:
        cache = (options.cache or Path(scratch)).resolve()
        workspace = studies.opened(cache, f"model={options.model.resolve()}", *texts, *given)
        state = first_measured(workspace)
        sizes = state.model.sizes
        assert sizes is not None
        settings = MixSettings.of(workspace.study, state.model.columns)
        settings = settings.with_built_types(state.model)
        space = settings.space(state.model, sizes)
        by_gradient = settings.prior_by_gradient(state.model, space, sizes)
        assert by_gradient is not None, "the pass lacks a matrix"
        priors = {"gradient": by_gradient[0], "uninformed": Prior.uninformed(space)}
        known = observe_mixes(settings, state.results, space)
        print(f"{options.model.name}: {len(known)} mixes measured first", flush=True)
        errors = compare(space, known, priors, measured(workspace, settings, state, space))
    print(" ".join(f"rms_{name}={value:.3f}" for name, value in errors.items()))


if __name__ == "__main__":
    main()
