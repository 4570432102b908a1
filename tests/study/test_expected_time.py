"""How long a study should take, by the model's size."""

from dataclasses import replace

import pytest
from searches import study as planned

from sintra.config.options import ProbeConf
from sintra.config.texts import OWN, Texts
from sintra.study.expected_time import core_seconds, wall_seconds

SMOLLM2 = 134_500_000  # parameters


def default():
    """A default study: own texts but for the second."""
    roles = dict.fromkeys(("calibration", "search", "report"), OWN) | {"second": "x.txt"}
    given = planned()
    return replace(given, texts=Texts(roles), probe=ProbeConf())


def test_it_is_what_smollm2_took():
    """docs/costs.md: some 50 to 65 minutes of a core, without probes."""
    assert 2400 < core_seconds(default(), SMOLLM2) < 4500


def test_it_grows_with_size_and_text_and_falls_with_effort():
    given = default()
    base = core_seconds(given, SMOLLM2)
    assert core_seconds(given, 2 * SMOLLM2) == pytest.approx(2 * base)
    more = replace(given, probe=replace(given.probe, report_tokens=40960))
    assert core_seconds(more, SMOLLM2) > base
    less = replace(given, planner=replace(given.planner, evaluations=6))
    assert core_seconds(less, SMOLLM2) < base
    read = replace(given, texts=Texts({"report": "mine.txt"}))
    assert core_seconds(read, SMOLLM2) < base


def test_nothing_is_said_of_what_was_not_measured():
    given = default()
    assert core_seconds(given, 7_000_000) is None
    assert (
        core_seconds(replace(given, planner=replace(given.planner, name="ladder")), SMOLLM2) is None
    )
    assert wall_seconds(100, 1) == 100
    assert 50 < wall_seconds(100, 2) < 60
