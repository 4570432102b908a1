"""Rounds as files: what is read is what was written, and its JSON stays the same."""

import json

import pytest

from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.study.round_files import Round, read_round

MIX = Recipe("Q4_K_M", True, (2,), ((".*", "Q4_K"),), kv="q8_0")
ROUNDS = (
    Round(1, (Proposal(Recipe("Q8_0"), "why", "ladder"),)),
    Round(2, (Proposal(MIX, "why", "solver", "report", {"kld_mean": 0.01}, 0.5),)),
    Round(3, stop="impossible: no"),
    Round(4, stop="decided", again=False),
)


@pytest.mark.parametrize("number", range(len(ROUNDS)))
def test_a_round_survives_its_json(number):
    text = json.dumps(ROUNDS[number].to_json(), sort_keys=True)
    again = Round.of_json(json.loads(text))
    assert again == ROUNDS[number]
    assert json.dumps(again.to_json(), sort_keys=True) == text


def test_only_a_last_round_that_was_judged_says_what_it_teaches():
    assert set(ROUNDS[0].to_json()) == set(ROUNDS[2].to_json()) == {"round", "proposals", "stop"}
    assert ROUNDS[3].to_json() == {
        "round": 4,
        "proposals": [],
        "stop": "decided",
        "again": False,
        "learned": None,
    }
    assert [r.is_last for r in ROUNDS] == [False, False, True, True]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"round": 1, "proposals": []}', '{"round": 1'])
def test_what_is_no_round_is_not_read(tmp_path, text):
    path = tmp_path / "round-01.json"
    path.write_text(text)
    assert read_round(path) is None
    assert read_round(tmp_path / "round-02.json") is None
