"""The last lines of a study, and its table, from a result that was kept."""

import json
from dataclasses import replace

import pytest
from conftest import ROOT
from small_studies import study

from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Constraint, Goal, Measurement
from sintra.results.ending import ending
from sintra.results.table import results_table
from sintra.results.verdicts import row_words, violation_words
from sintra.study.result_upgrade import parse_result

KEPT = (ROOT / "tests" / "core" / "result-1.json").read_text()
LIMIT = Constraint("kld_mean", "<=", 0.02, "goal.max_kld")
GOAL = Goal("small", (LIMIT,), "size_bytes", 1)


@pytest.fixture
def result():
    return parse_result(KEPT)


def uniform(row, kind):
    recipe = Recipe(kind, True, tensors=((".*", kind),), rounding="compensated")
    return {**row, "name": f"{kind} uniform", "recipe": json.loads(json.dumps(recipe.as_json()))}


def planned(*types):
    given = study()
    return replace(given, goal=GOAL, planner=replace(given.planner, types=types))


def lines(result, *types):
    text = ending(result, planned(*(types or ("Q2_K", "Q4_K"))))
    assert all(len(line) <= 80 for line in text.splitlines()), text
    return text.splitlines()


def test_a_pass_says_what_holds_where_it_is_and_what_is_next(result):
    said = lines(result)
    assert said[0].startswith(f"PASS    all {len(result['goal']['constraints'])} limits hold: mix")
    heads = [line.split()[0] for line in said if line[0] != " "]
    assert heads == ["PASS", "Model", "Report", "Next", "Then"]


def test_the_smallest_type_bounds_the_search(result):
    result["winner"] = uniform(result["winner"], "Q2_K")
    assert "        Q2_K is the smallest type searched; planner.types can go lower" in lines(result)
    smaller = lines(result, "IQ2_XS", "Q2_K")
    assert not any("smallest type" in line for line in smaller)


def test_a_fail_has_the_metric_and_both_numbers(result):
    verdict = {"status": "fail", "violated": [["kld_mean", 0.0249, 0.02, 0.0049]], "unknown": []}
    result["goal"]["constraints"] = [{"metric": "kld_mean", "option": "goal.max_kld"}]
    result["winner"]["verdict"] = verdict
    result["status"] = "fail"
    said = " ".join(" ".join(lines(result)).split())
    assert said.startswith("FAIL no candidate holds all limits; closest: mix of ")
    assert "KLD 0.0249 nats, limit 0.02 nats" in said
    assert "Next relax goal.max_kld" in said
    assert row_words(result["winner"]) == "fail: KLD"


def test_what_is_impossible_or_inconclusive_says_why(result):
    impossible = {**result, "winner": None, "status": "impossible", "reason": "impossible: no"}
    assert lines(impossible)[0] == "IMPOSSIBLE  no"
    open_end = {**result, "status": "inconclusive"}
    assert lines(open_end)[0].startswith("INCONCLUSIVE  mix of ")


@pytest.mark.parametrize(
    ("violation", "words"),
    [
        (("size_bytes", 2.5e6, 2e6, 5e5), "size 2.5 MB, limit 2 MB"),
        (("device_tg_tps", 4.2, 5.0, 0.8), "speed 4.2 tokens/s, limit 5 tokens/s"),
        (("task:fable:retention", 0.9, 0.98, 0.08), "task fable 90 %, limit 98 %"),
    ],
)
def test_numbers_have_units(violation, words):
    assert violation_words(violation) == words


def made(name, kld, size, recipe, decided=True, probe=""):
    rows = (
        Measurement("kld_mean", kld, "nats", "measured", 0.001),
        Measurement("size_bytes", size, "bytes", "exact"),
        Measurement("same_top", 0.9, "1", "measured"),
        Measurement("device_tg_tps", 12345.6, "tokens/s", "estimated"),
        Measurement("device_ram_bytes", 123e6, "bytes", "estimated"),
    )
    return Candidate(recipe, "", "solver", rows, decided=decided, name=name, probe=probe)


def test_the_table_has_references_hides_probes_and_fits(result):
    kinds = ("Q2_K", "Q3_K", "Q4_K")
    recipes = [Recipe(k, True, tensors=((".*", k),), rounding="compensated") for k in kinds]
    candidates = [
        made("Q2_K uniform, refined, polished", 0.01, 2e6, recipes[0]),
        made("Q3_K uniform", 0.015, 3.1e9, recipes[1], decided=False),
        made("probe attn_k, first half", 0.5, 7e6, recipes[2], decided=False, probe="attn_k"),
        made("llama.cpp Q4_K_M", 0.03, 4e6, Recipe("Q4_K_M")),
    ]
    result["original"] = [{"metric": "size_bytes", "value": 15e6}]
    text = results_table(result, candidates, GOAL)
    assert all(len(line) <= 80 for line in text.splitlines()), text
    rows = text.splitlines()
    assert rows[2] == "> Q2_K uniform, refined, polished"
    assert rows[3].split() == ["2.00", "MB", "0.0100", "90.0%", "12346", "123", "pass"]
    assert rows[4].endswith("pass (validation)")
    assert rows[5] == "reference"
    assert rows[6].endswith("fail: KLD")
    assert rows[7].startswith("  16-bit original")
    assert rows[8] == "1 sensitivity probe not shown: doit optimize ... --all shows them"
    assert "probe attn_k" in results_table(result, candidates, GOAL, show_all=True)
