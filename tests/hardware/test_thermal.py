"""Heat against published behaviour, and what a simulated number may decide."""

import random
from dataclasses import replace

import pytest
from conftest import ROOT

from sintra.cli.commands import thermal as thermal_module
from sintra.core.errors import UserError
from sintra.core.judge import judge
from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Constraint, Goal, Measurement
from sintra.hardware import profiles
from sintra.hardware.estimate import thermal


def parameters(name, cooled=False):
    return thermal.thermal_model(profiles.read_profile(ROOT, name)["thermal"], name, cooled)


def test_a_bare_raspberry_pi_5():
    """Reaches 80 C within a few minutes (pidiylab), averages 81 C in benchmarks (phoronix), idles
    at 50 C (beamostore).
    """
    run = thermal.simulate_run(parameters("raspberry_pi_5"), 1200)
    assert run[0].chip == pytest.approx(50, rel=0.15)
    assert 60 <= next(s.t for s in run if s.chip >= 80) <= 360
    late = [s.chip for s in run if s.t > 400]
    assert sum(late) / len(late) == pytest.approx(81, rel=0.15)
    assert max(s.chip for s in run) < 85
    assert run[-1].clock < 0.95
    assert thermal.sustained_speed(parameters("raspberry_pi_5")) == pytest.approx(
        run[-1].speed, rel=0.01
    )


def test_a_cooled_raspberry_pi_5():
    """56 C and 2.4 GHz throughout with the Active Cooler (phoronix)."""
    run = thermal.simulate_run(parameters("raspberry_pi_5", cooled=True), 1200)
    assert run[-1].chip == pytest.approx(56, rel=0.15)
    assert all(s.clock == 1 for s in run)


def test_a_raspberry_pi_4():
    """69.6 C at full load with a fin, 38.9 C idle; 56.9 C with fin and fan (zhonguncle)."""
    run = thermal.simulate_run(parameters("raspberry_pi_4"), 1800)
    assert run[0].chip == pytest.approx(38.9, rel=0.15)
    assert run[-1].chip == pytest.approx(69.6, rel=0.15)
    assert thermal.simulate_run(parameters("raspberry_pi_4", True), 1800)[-1].chip == pytest.approx(
        56.9, rel=0.15
    )


def test_an_iphone_falls_from_40_5_to_23_7():
    """Over 20 runs, most of it within two (arXiv 2603.23640)."""
    run = thermal.simulate_run(parameters("iphone_15_pro"), 180, [(8, 1), (1, 0)] * 20)
    speeds = [40.5 * thermal.mean_speed(run, 9 * i, 9 * i + 8) for i in range(20)]
    assert speeds[0] == pytest.approx(40.5, rel=0.15)
    assert speeds[19] == pytest.approx(23.7, rel=0.15)
    assert speeds[0] - speeds[2] > 0.5 * (speeds[0] - speeds[19])


def test_an_orin_nano_super_never_throttles_with_its_fan():
    """73 C at most in every mode (smolhub); without the fan's air it steps down at 99 C."""
    p = parameters("jetson_orin_nano_super")
    run = thermal.simulate_run(p, 1800)
    assert max(s.chip for s in run) == pytest.approx(73, rel=0.15)
    assert run[-1].clock == 1
    hot = thermal.simulate_run(replace(p, r_ca=5.0), 3600)
    assert max(s.chip for s in hot) < 104.5  # its software shutdown
    assert hot[-1].clock < 1
    assert thermal.sustained_speed(replace(p, r_ca=5.0)) == pytest.approx(
        thermal.mean_speed(hot, 3000, 3600), rel=0.15
    )


def test_a_fanless_case_is_held_by_its_skin():
    fanless = {
        "ambient_c": 25,
        "idle_w": 2,
        "full_w": 20,
        "r_jc": 1,
        "r_ca": 2,
        "c_j": 10,
        "c_c": 300,
        "skin_c": 42,
    }
    p = thermal.thermal_model(fanless, "case")
    run = thermal.simulate_run(p, 3600)
    assert run[0].clock == 1
    assert 42 < run[-1].case < 48
    assert thermal.sustained_speed(p) == pytest.approx(run[-1].speed, rel=0.02)


def test_a_logged_run_gives_resistance_and_capacity_back():
    p, draw = replace(parameters("raspberry_pi_5"), r_ca=6.2, c_c=35.0), random.Random(0)
    chip, _ = thermal.start_temperatures(p)
    times = [(float(t), 6.5) for t in range(0, 600, 10)]
    log = [
        (t, c + draw.gauss(0, 0.3), w)
        for (t, w), c in zip(
            times, thermal.replay_log(p, [(t, chip, w) for t, w in times]), strict=True
        )
    ]
    found = thermal.fit_cooling(parameters("raspberry_pi_5"), log)
    assert found.r_ca == pytest.approx(6.2, rel=0.05)
    assert found.c_c == pytest.approx(35, rel=0.15)
    with pytest.raises(UserError, match="too short"):
        thermal.fit_cooling(p, log[:5])


def test_a_simulated_number_alone_meets_no_limit():
    limit = Constraint("device_tg_tps_sustained", ">=", 5, "goal.min_tg_tps_sustained")
    fast = Measurement("device_tg_tps_sustained", 9, "tokens/s", "simulated")
    slow = Measurement("device_tg_tps_sustained", 3, "tokens/s", "simulated")

    def verdict(row, accept):
        return judge(
            Candidate(Recipe("Q4_0"), "", "", (row,), decided=True),
            Goal("g", (limit,), "size_bytes", 1, accept),
        ).status

    assert (verdict(fast, False), verdict(fast, True), verdict(slow, False)) == (
        "inconclusive",
        "pass",
        "fail",
    )


def test_every_thermal_key_is_known():
    for name, profile in profiles.read_profiles(ROOT).items():
        assert set(profile["thermal"]) <= thermal.KEYS, name


def test_the_table(tmp_path, capsys):
    raw = ["model=fable", "hardware=raspberry_pi_5", f"store.path={tmp_path}"]
    thermal_module.show(ROOT, raw, 12, "Q4_K_M", False, "", "", "text")
    text = capsys.readouterr().out
    assert "simulated for Raspberry Pi 5" in text
    with pytest.raises(UserError, match="can't be simulated: thermal lacks"):
        thermal_module.show(
            ROOT,
            ["model=fable", "hardware=laptop", f"store.path={tmp_path}"],
            12,
            "Q4_K_M",
            False,
            "",
            "",
            "text",
        )
    (tmp_path / "log.csv").write_text("seconds,celsius\n1,2\n")
    with pytest.raises(UserError, match="columns seconds, celsius, watts"):
        thermal_module.show(ROOT, raw, 12, "Q4_K_M", False, str(tmp_path / "log.csv"), "", "text")
