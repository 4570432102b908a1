"""What a board showed of some variants corrects what is estimated of the others, and what the
planner goes by.
"""

from dataclasses import replace

import pytest
from conftest import ROOT

from sintra.config import compose
from sintra.config.study import goal_of, hardware_of, study_of
from sintra.core.artifact import Failure, File
from sintra.core.judge import ranked
from sintra.core.recipe import Recipe
from sintra.core.types import Board, Candidate, Measurement
from sintra.hardware.boards import corrections

MIB = 2**20


def made(name, ram, tps, measured=None, failure=None):
    """A variant with estimates, and with what a board measured: (bytes, tokens/s)."""
    rows = {
        m.metric: m
        for m in (
            Measurement("device_ram_bytes", ram, "bytes", "estimated", low=ram - 9, high=ram + 9),
            Measurement("device_tg_tps", tps, "tokens/s", "estimated", low=tps / 2, high=tps * 2),
            Measurement("kld_mean", 1 / ram, "nats", "measured", 0.0),
        )
    }
    if measured:
        own = zip(
            ("device_ram_bytes", "device_tg_tps"), measured, ("bytes", "tokens/s"), strict=True
        )
        corrections.add_board_measurements(
            rows, tuple(Measurement(m, v, unit, "measured", where="a board") for m, v, unit in own)
        )
    return Candidate(
        Recipe(name), "", "", tuple(rows.values()), File("model.gguf", 1, "0"), failure
    )


def study(board):
    conf = compose.compose(ROOT, ["hardware=laptop", "goal=quality"])
    found = study_of(conf, [])
    return replace(
        found,
        hardware=hardware_of(conf.hardware),
        goal=goal_of(conf.goal, conf.hardware),
        board=board,
    )


def test_a_measurement_replaces_the_estimate_and_keeps_it():
    found = made("Q4_K_M", 100 * MIB, 10.0, (130 * MIB, 8.0))
    assert (
        found.find("device_tg_tps").how,
        found.value("device_tg_tps"),
        found.value("device_tg_tps_estimated"),
    ) == ("measured", 8.0, 10.0)


def test_estimates_move_by_what_was_measured_of_others():
    known = [made("Q4_K_M", 100 * MIB, 10.0, (130 * MIB, 8.0)), made("Q6_K", 140 * MIB, 6.0)]
    measured, other = corrections.correct_candidates(known)
    assert measured == known[0]
    assert other.value("device_ram_bytes") == 170 * MIB
    assert other.value("device_tg_tps") == pytest.approx(4.8)
    assert other.find("device_tg_tps").low == pytest.approx(2.4)
    assert other.find("device_tg_tps").how == "estimated"
    assert corrections.correct_candidates([known[1]]) == [known[1]], "nothing is known yet"


def test_what_needs_as_much_as_what_did_not_fit_is_out():
    gone = made("Q6_K", 140 * MIB, 6.0, failure=Failure("out_of_memory", "no"))
    known = [gone, made("Q8_0", 180 * MIB, 5.0), made("Q4_K_M", 100 * MIB, 10.0)]
    found = corrections.correct_candidates(known)
    assert "Q6_K, which needs no more memory, doesn't fit" in found[1].failure.message
    assert [c.recipe.type for c in ranked(found, study(None).goal)] == ["Q4_K_M"]
    unbuilt = replace(gone, artifact=None)
    assert corrections.correct_candidates([unbuilt, known[1]])[1].failure is None, (
        "that the host could not build it says nothing of the board"
    )


def test_the_planner_sees_the_device_as_the_board_is():
    known = [
        made("Q4_K_M", 100 * MIB, 10.0, (130 * MIB, 8.0)),
        made("Q6_K", 140 * MIB, 6.0, failure=Failure("out_of_memory", "")),
    ]
    plain = study(Board({}, 4, None))
    seen = corrections.correct_study(plain, known)
    assert seen.hardware.efficiency == pytest.approx(0.8 * plain.hardware.efficiency)
    assert seen.hardware.overhead_s_per_layer == pytest.approx(
        plain.hardware.overhead_s_per_layer / 0.8
    )
    assert seen.hardware.runtime_bytes == plain.hardware.runtime_bytes + 30 * MIB
    assert seen.board.full == 170 * MIB
    assert corrections.correct_study(study(None), known) == study(None), (
        "without a board nothing changes"
    )


def test_the_table_says_what_was_measured():
    known = made("Q4_K_M", 100 * MIB, 10.0, (130 * MIB, 8.0))
    rows = (
        *known.measurements,
        Measurement("device_throttled", 1.0, "1", "measured"),
        Measurement("device_celsius", 84.6, "C", "measured"),
        Measurement("device_swapped_bytes", 3e6, "bytes", "measured"),
    )
    line = next(corrections.board_lines([replace(known, measurements=rows)]))
    assert line == (
        "measured on a board: llama.cpp Q4_K_M, 8 tokens/s (10 estimated), 136 MB (105 "
        "estimated), 85 C, THROTTLED, SWAPPED 3 MB"
    )
