"""What one study teaches the next: lessons, likeness, the history that keeps them."""

import csv
import io
import json
import sqlite3

import numpy as np
import pytest
from searches import Run, bits, study
from worlds import TYPES, World, matrices

from sintra.cli.commands import history as history_module
from sintra.core.errors import UserError
from sintra.planning.solver.groups import group_tensors
from sintra.planning.solver.mixes import MixSettings, mix_of, observe_mixes
from sintra.planning.solver.surrogate import Prior, fit_surrogate
from sintra.planning.solver.transfer import (
    LEAST_SPREAD,
    SPREAD,
    interpolate,
    lesson_of,
    prior_of_lessons,
)
from sintra.planning.state import StudyLesson
from sintra.results import calibration
from sintra.store import history
from sintra.store.store import Store
from sintra.study import lessons


def kin_of(world, seed, apart=0.2):
    """A world whose sensitivities lie near another's."""
    rng = np.random.default_rng(seed)
    other = World(seed)
    other.space = world.space
    factors = {g: float(rng.lognormal(0, apart)) for g in sorted(world.true)}
    other.own = {n: v * 2 * factors[world.space.groups[n]] for n, v in world.own.items()}
    return other


def fitted(run):
    state = run.state()
    settings = MixSettings.of(run.given).with_built_types(state.model)
    space = settings.space(state.model, run.sizes)
    return fit_surrogate(space, observe_mixes(settings, state.results, space))


@pytest.fixture(scope="module")
def taught():
    """A world, and what studies of three like it taught."""
    world = World(7)
    runs = [
        Run(study(size=bits(world, 3.6)), kin_of(world, seed)).to_its_end() for seed in (1, 2, 3)
    ]
    return world, tuple(lesson_of(fitted(r), r.sizes.matrices) for r in runs)


def evaluations(run, limit):
    """How many until a mix within the size did no more damage than this."""
    size = run.given.goal.constraints[0].limit
    for number, recipe in enumerate([r for r, level in run.tried if level == "search"], 1):
        mix = mix_of(recipe, run.world.space) if recipe.complete else None
        if mix and run.size(recipe) <= size and run.world.kld(mix) <= limit:
            return number
    return 99


def test_a_study_like_earlier_ones_is_sooner_there_and_ends_as_well(taught):
    world, known = taught
    goal, ratios = study(size=bits(world, 3.6)), []
    for seed in (9, 10, 11):
        cold, warm = (
            Run(goal, kin_of(world, seed)).to_its_end(),
            Run(goal, kin_of(world, seed), lessons=known).to_its_end(),
        )
        limit = 1.1 * cold.best()
        assert evaluations(warm, limit) <= 0.5 * evaluations(cold, limit)
        ratios.append(warm.best() / cold.best())
    assert max(ratios) <= 1.1
    assert np.exp(np.log(ratios).mean()) <= 1.05


def test_a_wrong_lesson_is_found_out(taught):
    world, known = taught
    rng = np.random.default_rng(0)
    shuffled = [
        StudyLesson(
            {k: tuple((d, float(rng.normal(0, 3))) for d, _ in v) for k, v in x.classes.items()},
            x.factors,
            x.bend,
        )
        for x in known[:1]
    ]
    goal = study(size=bits(world, 3.6))
    cold, misled = (
        Run(goal, World(7)).to_its_end(),
        Run(goal, World(7), lessons=tuple(shuffled)).to_its_end(),
    )
    probed = [p for r in misled.rounds for p in r if p.probe]
    assert probed, "a mix outside its interval: the probes are made after all"
    assert misled.best() <= 1.15 * cold.best()


def test_lessons_speak_of_classes_and_depths(taught):
    _, known = taught
    groups = group_tensors(matrices(blocks=16), 4)
    found = prior_of_lessons(known, groups, matrices(blocks=16), TYPES)
    assert set(found.groups) == set(groups.values()), "a deeper model in finer bins"
    means = {g: m for g, (m, _) in found.groups.items()}
    assert means["ffn_down/0"] == pytest.approx(
        np.mean([x.classes["ffn_down"][0][1] for x in known])
    )
    assert means["ffn_down/0"] <= max(means["ffn_down/1"], means["ffn_down/0"])
    assert prior_of_lessons(known, groups, matrices(blocks=16), [*TYPES, "IQ2_S"]) is None, (
        "a type that nobody tried"
    )
    assert prior_of_lessons((), groups, matrices(blocks=16), TYPES) is None
    (one,) = known[:1]
    assert {
        s for _, s in prior_of_lessons([one], groups, matrices(blocks=16), TYPES).groups.values()
    } == {SPREAD}
    assert {
        s
        for _, s in prior_of_lessons([one] * 9, groups, matrices(blocks=16), TYPES).groups.values()
    } == {LEAST_SPREAD}
    assert StudyLesson.of(json.loads(json.dumps(one.as_json())), 1.0) == one


def test_between_points_and_beyond():
    points = ((0.25, 1.0), (0.75, 3.0))
    assert [interpolate(points, d) for d in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1, 1, 2, 3, 3]


def test_a_prior_gives_way_to_measurements():
    world = World(2)
    wrong = Prior(
        {g: (3.0 if i else -3.0, 0.4) for i, g in enumerate(world.space.group_names)},
        dict.fromkeys(world.space.types, (0.0, 0.1)),
        (0.0, 0.3),
    )
    probes = [
        {n: "Q2_K" if own == g else "Q8_0" for n, own in world.space.groups.items()}
        for g in world.space.group_names
    ]
    curve = [world.seen(world.uniform(t)) for t in ("Q2_K", "Q4_K", "Q8_0")]
    mix = probes[0]
    few, many = (
        fit_surrogate(world.space, curve, prior=wrong),
        fit_surrogate(world.space, [*curve, *map(world.seen, probes)], prior=wrong),
    )
    truth = world.kld(mix)
    assert (
        abs(np.log(many.predict(mix)[0] / truth)) < 0.2 < abs(np.log(few.predict(mix)[0] / truth))
    )


OWN = {
    "architecture": "llama",
    "rounding": "compensated",
    "weights": "a",
    "parameters": 10**6,
    "backend": "cpu",
    "optimise": "kld_mean",
    "blocks": 8,
}


def test_likeness():
    def like(**other):
        return lessons.similarity(OWN, OWN | {"weights": "b"} | other)

    assert lessons.similarity(OWN, OWN) > like() == 1.0
    assert like(architecture="qwen2") == like(rounding="nearest") == 0
    assert 1 > like(backend="cuda") > like(parameters=10**7) > like(parameters=10**8) > 0


def row(name, status="pass", **more):
    adviser = "language model"
    candidates = [
        candidate("solver", 3, 0.9, 0.02, (0.01, 0.03)),
        candidate(adviser, 2, 0.8, 0.05, (0.01, 0.03)),
        candidate("solver", 1, None, 0.06, None),
        candidate(adviser, 3, 0.6, 0.07, (0.06, 0.08)),
    ]
    return {
        "study": name,
        "model": "m",
        "hardware": "h",
        "goal": {"name": "g"},
        "status": status,
        "winner": candidates[0],
        "candidates": candidates,
        "evaluations": 4,
        "llm": {"calls": 2, "tokens": 9, "usd": 0.01},
    } | more


def candidate(author, number, stated, kld, span):
    rows = [
        {"metric": "kld_mean_search", "value": kld},
        {"metric": "kld_mean", "value": 2 * kld},
        {"metric": "size_bytes", "value": 1000.0},
    ]
    predicted = {"kld_mean": kld, "kld_mean_low": span[0], "kld_mean_high": span[1]} if span else {}
    return {
        "name": "llama.cpp Q4_K_M",
        "recipe": {"type": "Q4_K_M"},
        "author": author,
        "round": number,
        "stated": stated,
        "measurements": rows,
        "predicted": predicted,
    }


def test_the_history_exports_and_forgets(tmp_path, capsys):
    path, store = tmp_path / "history.db", Store(tmp_path)
    history_module.show_history(store, "text", "", False)
    assert "no study has ended yet" in capsys.readouterr().out
    for number in range(3):
        history.append_result(
            path, row(f"s{number}", learned={"x": number} if number else None), f"d{number}"
        )
    history_module.show_history(store, "csv", "", False)
    (first, *_) = rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert (len(rows), first["study"], first["winner"], first["size_bytes"], first["llm_usd"]) == (
        3,
        "s0",
        "llama.cpp Q4_K_M",
        "1000.0",
        "0.01",
    )
    history_module.show_history(store, "json", "", False)
    assert [r["kld_mean"] for r in json.loads(capsys.readouterr().out)] == [0.04] * 3
    assert [json.loads(r["learned"]) for r in history.read_lessons(path)] == [{"x": 1}, {"x": 2}]
    with pytest.raises(UserError, match="no study 's7'"):
        history_module.show_history(store, "text", "s7", False)
    with pytest.raises(UserError, match="text or json or csv"):
        history_module.show_history(store, "xml", "", False)
    history_module.show_history(store, "text", "s1", False)
    assert "forgot 1 result " in capsys.readouterr().out
    assert [r["study"] for r in history.read_results(path)] == ["s0", "s2"]
    history_module.show_history(store, "text", "all", False)
    assert history.read_results(path) == []


def test_calibration_by_hand():
    results = [row("a")]
    assert calibration.advice_outcomes(results[0]) == [(0.8, True), (0.6, False)]
    said = calibration.calibration_report(results)
    assert "2 of 3 measured inside (67%)" in said
    assert "70% sure on average, 1 of 2 better than before, Brier 0.20" in said
    assert "no prediction has been measured" in calibration.calibration_report([])


def test_an_older_database_is_brought_up_to_date(tmp_path):
    path = tmp_path / "history.db"
    with sqlite3.connect(path) as base:
        base.executescript(history.MIGRATIONS[0] + "PRAGMA user_version=1;")
        base.execute(
            "INSERT INTO result (made, study, model, hardware, goal, status, winner, digest, "
            "result) VALUES "
            "('t', 's', 'm', 'h', 'g', 'pass', NULL, 'd', '{\"candidates\": [{}]}')"
        )
    base.close()
    assert [r["study"] for r in history.read_results(path)] == ["s"]
    assert history.read_lessons(path) == []
    assert calibration.last_results(history.read_results(path)) == [], (
        "from before the rounds were recorded"
    )
