"""Rounds that others have planned: closed lists, literal names, bounded printable texts."""

import copy
import time

import pytest

from sintra.core.recipe import Recipe
from sintra.core.types import Proposal
from sintra.formats.gguf.sizes import mix_patterns
from sintra.planning.state import ADVISER
from sintra.study.round_checks import check_progress, check_round, is_literal_pattern
from sintra.study.round_files import Round

MIX = {
    "token_embd.weight": "Q6_K",
    "output.weight": "Q8_0",
    **{f"blk.{n}.attn_v.weight": "Q5_K" for n in range(40)},
    **{f"blk.{n}.ffn_down.weight": "Q3_K" for n in range(100)},
    **{f"blk.{n}.ffn_up.weight": "Q2_K" for n in range(100)},
}
LESSON = {
    "classes": {"attn_v": [[0.0, -1.5], [1.0, 0.3]]},
    "factors": {"Q4_K": -0.1},
    "bend": 0.2,
    "evaluations": 9,
    "least_kld": 0.01,
    "misfit": 0.1,
    "architecture": "llama",
    "weights": "a" * 64,
    "parameters": 7_000_000,
    "blocks": None,
    "backend": "cpu",
    "optimise": "size_bytes",
    "rounding": "nearest",
}


def own(**fields):
    """A round as a planner of ours writes it."""
    recipe = Recipe("Q2_K", True, tensors=mix_patterns(MIX), kv="q8_0")
    values = {"recipe": recipe, "why": "the best mix", "author": ADVISER} | fields
    proposal = Proposal(
        **values, predicted={"kld_mean": 0.02, "kld_mean_low": 0.01}, confidence=0.5
    )
    return Round(1, (proposal,)).to_json()


def changed(path, value):
    data = copy.deepcopy(own())
    at = data
    for name in path[:-1]:
        at = at[name]
    at[path[-1]] = value
    return data


PROPOSAL = ("proposals", 0)
RECIPE = (*PROPOSAL, "recipe")


def test_what_our_planners_write_passes():
    assert check_round(own(), 1) == Round.of_json(own())
    for kind in ("Q4_K_M", "IQ2_XXS", "F16", "BF16", "Q4_0"):
        assert check_round(own(recipe=Recipe(kind), author="solver"), 1)
    assert check_round(own(recipe=Recipe("w4g128", format="gptq"), author="study"), 1)
    assert check_round(
        own(recipe=Recipe("given_0a1b2c3d", format="gptq_native"), author="study"), 1
    )
    last = Round(1, stop="decided", again=False, learned=LESSON).to_json()
    assert check_round(last, 1).is_last


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("round",), 2),
        (("round",), True),
        (("stop",), "\x1b]0;title\x07"),
        (("stop",), "x" * 4001),
        (("again",), True),
        (("learned",), LESSON),
        (("more",), 1),
        (("proposals",), []),
        (("proposals",), [own()["proposals"][0]] * 1001),
        ((*PROPOSAL, "why"), "\x1b[2J"),
        ((*PROPOSAL, "why"), "two\nlines"),
        ((*PROPOSAL, "why"), "right \u202e to left"),
        ((*PROPOSAL, "why"), "x" * 1_000_000),
        ((*PROPOSAL, "author"), "nobody"),
        ((*PROPOSAL, "author"), ["solver"]),
        ((*PROPOSAL, "level"), "deliver"),
        ((*PROPOSAL, "predicted"), {"kld_mean": float("nan")}),
        ((*PROPOSAL, "predicted"), {"kld_mean": 10**400}),
        ((*PROPOSAL, "predicted"), {"kld_mean": True}),
        ((*PROPOSAL, "predicted"), {"<script>": 1.0}),
        ((*PROPOSAL, "predicted"), {f"m{n}": 1.0 for n in range(201)}),
        ((*PROPOSAL, "confidence"), 2),
        ((*PROPOSAL, "confidence"), "high"),
        ((*RECIPE, "type"), "Q9_K"),
        ((*RECIPE, "type"), "../Q4_K"),
        ((*RECIPE, "kv"), "q9_9"),
        ((*RECIPE, "kv"), {}),
        ((*RECIPE, "rounding"), "up"),
        ((*RECIPE, "format"), "exe"),
        ((*RECIPE, "drop"), [10_000]),
        ((*RECIPE, "tensors"), [[r"^(a+)+$", "Q4_K"]]),
        ((*RECIPE, "tensors"), [[r"(\w+\s?)*x", "Q4_K"]]),
        ((*RECIPE, "tensors"), [["blk.0", "Q4_K"]]),
        ((*RECIPE, "tensors"), [[".*", "Q4_K"], [".*", "Q4_K"]]),
        ((*RECIPE, "tensors"), [[".*", "Q4_K_M"]]),
        ((*RECIPE, "tensors"), [[f"^{'a' * 9000}$", "Q4_K"]]),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_refused(path, value):
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        check_round(changed(path, value), 1)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("classes", {"a": [[0, "x"]]}),
        ("classes", {"\x1b": [[0, 1]]}),
        ("factors", {"Q4_K": float("inf")}),
        ("bend", None),
        ("parameters", 0),
        ("architecture", "a\nb"),
        ("blocks", "many"),
    ],
)
def test_lessons_that_are_refused(name, value):
    last = Round(1, stop="decided", again=False, learned=LESSON | {name: value}).to_json()
    with pytest.raises((ValueError, KeyError, TypeError, AttributeError)):
        check_round(last, 1)


def test_patterns_are_checked_in_time_that_grows_with_their_length():
    start = time.process_time()
    for text in ("a" * 7000, r"a\." * 2000 + "!", r"^blk\.(" + "1|" * 3000, "^" + r"a\.a" * 1700):
        assert not is_literal_pattern(text)
    assert time.process_time() - start < 5, "a pattern that backtracks takes for ever"


def test_a_round_goes_on():
    planned = check_round(own(), 1)
    check_progress(planned, [], ("gguf",))
    with pytest.raises(ValueError, match="an earlier round has proposed"):
        check_progress(planned, [planned], ("gguf",))
    with pytest.raises(ValueError, match="doesn't make"):
        check_progress(planned, [], ("gptq",))
