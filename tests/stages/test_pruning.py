"""Which blocks are left out: block influence against transformers' own hidden states, and the
greedy choice.
"""

import dataclasses
import itertools
import json

import pytest
import torch
from conftest import make_llama
from small_studies import measured, study
from stage_lab import Lab
from transformers import LlamaForCausalLM

from sintra.core.recipe import Recipe, variant_slug
from sintra.formats.runtime.llama_cpp import LlamaModel
from sintra.planning.solver.pruning import (
    SHORTLIST,
    best_block_set,
    block_sets_to_try,
    cuts_to_try,
    extended_block_sets,
)
from sintra.planning.state import ModelFacts, PlannerState, StudyResults
from sintra.stages import curvature

INFLUENCE = (0.9, 0.2, 0.1, 0.4, 0.3, 0.8)


def test_influence_is_what_transformers_hidden_states_say(tmp_path, toolchain):
    lab = Lab(tmp_path, make_llama(tmp_path / "model", hidden=64, layers=3), toolchain)
    given = {"model": lab.tiny, "gguf": lab.gguf, "text": lab.root / "text"}
    out = lab.run(curvature, {"tokens": 256, "context": 64, "random": 0.2}, **given)
    found = json.loads((out / "curvature.json").read_text())["influence"]
    vocabulary = LlamaModel(lab.gguf / "model.gguf", 64, 1, vocab_only=True)
    windows = vocabulary.windows((lab.root / "text" / "text.txt").read_text(), 256)
    vocabulary.close()
    net = LlamaForCausalLM.from_pretrained(lab.tiny, dtype=torch.float32)
    with torch.no_grad():
        states = net.model(
            torch.from_numpy(windows).long(), output_hidden_states=True
        ).hidden_states
        net.model.norm = torch.nn.Identity()  # the last hidden state before the final norm
        states = (*states[:-1], net.model(torch.from_numpy(windows).long()).last_hidden_state)
    wanted = [
        float(1 - torch.cosine_similarity(a, b, dim=-1).mean())
        for a, b in itertools.pairwise(states)
    ]
    assert found == pytest.approx(wanted, abs=1e-4)


def test_the_next_set_keeps_the_best_and_adds_the_least_influential():
    assert extended_block_sets((), INFLUENCE, 6) == [(2,), (1,), (4,)]
    assert extended_block_sets((2,), INFLUENCE, 6) == [(1, 2), (2, 4), (2, 3)]
    assert extended_block_sets((), (), 8) == [(2,), (6,)], (
        "where the influence is unknown, two pockets"
    )
    assert extended_block_sets((), (), 32, (0.34, 0.80)) == [(10,), (25,)]


def state_of(given, *drops):
    rows = [
        measured(Recipe("Q2_K"), 0.5, 90),
        *(measured(Recipe("Q2_K", drop=d), kld, 80) for d, kld in drops),
    ]
    return PlannerState(
        StudyResults(candidates=tuple(rows)), ModelFacts(layers=6, influence=INFLUENCE)
    )


def test_blocks_go_one_after_the_other_and_only_as_far_as_allowed():
    given = study(size=75, max_dropped=2)
    assert block_sets_to_try(given, state_of(given)) == [(2,), (1,), (4,)]
    one = state_of(given, ((2,), 1.0), ((1,), 0.8), ((4,), 2.0))
    assert best_block_set(
        sorted(one.results.candidates[1:], key=lambda c: c.value("kld_mean"))
    ) == (1,)
    two = block_sets_to_try(given, one)
    assert len(two) == SHORTLIST
    assert all(len(d) == 2 and 1 in d for d in two)
    assert block_sets_to_try(given, state_of(given, ((1,), 0.8), ((1, 2), 0.9))) == [], (
        "as many as allowed"
    )
    assert block_sets_to_try(study(size=75, max_dropped=0), state_of(given)) == []
    assert block_sets_to_try(study("kld_mean", size=95, max_dropped=2), state_of(given)) == [], (
        "what holds needs no drop"
    )


def test_attention_goes_before_blocks_where_the_runtime_can():
    given = study(size=75, max_dropped=2)
    state = state_of(given)
    llama = dataclasses.replace(state, model=dataclasses.replace(state.model, architecture="llama"))
    assert cuts_to_try(given, llama) == [
        ((), (2,)),
        ((), (1,)),
        ((), (4,)),
        ((2,), ()),
        ((1,), ()),
        ((4,), ()),
    ]
    assert cuts_to_try(given, state_of(given)) == [((2,), ()), ((1,), ()), ((4,), ())], (
        "an architecture that isn't known to"
    )
    rows = [*llama.results.candidates, measured(Recipe("Q2_K", no_attention=(2,)), 0.6, 85)]
    assert not any(
        a
        for _, a in cuts_to_try(
            given, dataclasses.replace(llama, results=StudyResults(candidates=tuple(rows)))
        )
    ), "once"
    rows[-1] = measured(Recipe("Q2_K", no_attention=(2,)), 0.01, 70)
    assert (
        cuts_to_try(given, dataclasses.replace(llama, results=StudyResults(candidates=tuple(rows))))
        == []
    ), "it was enough"


def test_a_recipe_without_attention_has_a_name_and_words():
    recipe = Recipe("Q4_K_M", drop=(1,), no_attention=(3, 5))
    assert variant_slug(recipe) == "Q4_K_M-drop1-noattn3_5"
    assert recipe.cut_words == "block 1 and the attention of blocks 3, 5"
    assert Recipe.of(json.loads(json.dumps(recipe.as_json()))) == recipe
    assert "no_attention" not in Recipe("Q4_K_M", drop=(1,)).as_json(), "old keys stay"


def test_what_is_known_of_an_architecture_is_read():
    from conftest import ROOT

    from sintra.planning.architectures import knowledge, pockets

    assert pockets(ROOT, "llama") == (0.34, 0.80)
    assert pockets(ROOT, "phi3") == pockets(ROOT, "nonesuch") == ()
    assert any("blocks that may go" in line for line in knowledge(ROOT, "mistral"))


@pytest.mark.parametrize("given", ["ab", [True], [-1], [1.5], 3, [[1]], None])
def test_blocks_are_numbers(given):
    for name in ("drop", "no_attention"):
        with pytest.raises(ValueError, match="not numbers of blocks"):
            Recipe.of({"type": "Q2_K", name: given})
    assert Recipe.of({"type": "Q2_K", "drop": [3, 1, 3]}).drop == (1, 3)
