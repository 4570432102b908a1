"""effort=: a set of values that single options given beside it change."""

import pytest
from conftest import ROOT

from sintra.build.worker_process import SPIN_COUNT, environment
from sintra.config.compose import compose
from sintra.core.errors import UserError
from sintra.stages.rounding.effort import LEARNING_STEPS, learning_steps
from sintra.study.workspace import open_workspace


def test_more_effort_is_more_of_everything():
    quick, standard, thorough = (
        compose(ROOT, [f"effort={name}"]) for name in ("quick", "standard", "thorough")
    )
    assert compose(ROOT, []) == standard
    for option in ("calibration_tokens", "search_tokens", "report_tokens", "second_tokens"):
        values = [getattr(c.probe, option) for c in (quick, standard, thorough)]
        assert values == sorted(set(values)), option
    evaluations = [c.planner.evaluations for c in (quick, standard, thorough)]
    assert evaluations == sorted(set(evaluations))
    assert [c.planner.refine for c in (quick, standard, thorough)] == [False, True, True]
    assert thorough.probe.refine_steps == LEARNING_STEPS


@pytest.mark.parametrize("options", [["effort=quick"], ["probe.search_tokens=3072"]])
def test_a_part_of_the_search_text_has_two_windows(options, tiny, tmp_path):
    raw = [f"model={tiny}", f"store.path={tmp_path}", *options]
    step = open_workspace(ROOT, raw).graph().baseline("screen")
    assert step.params["tokens"] == 1024 == 2 * step.params["context"]


def test_single_options_win():
    config = compose(ROOT, ["planner.evaluations=9", "effort=thorough", "probe.report_tokens=777"])
    assert (config.planner.evaluations, config.probe.report_tokens) == (9, 777)
    assert compose(ROOT, ["probe=quick"]).probe.report_tokens == 4096


def test_an_effort_that_is_unknown():
    with pytest.raises(UserError, match="no effort is called 'most': known are: quick, standard,"):
        compose(ROOT, ["effort=most"])


def test_blocks_learn_unless_the_model_is_large():
    assert learning_steps(None, 99_000_000) == LEARNING_STEPS
    assert learning_steps(None, 135_000_000) == 0
    assert learning_steps(7, 8_000_000_000) == 7


def test_threads_of_workers_spin_little(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    assert environment(2)["GOMP_SPINCOUNT"] == SPIN_COUNT
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert environment(2)["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert "GOMP_SPINCOUNT" not in environment(2)
