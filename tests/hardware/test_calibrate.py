"""Measurements of a device of one's own make its profile better and its interval narrower."""

import itertools
from dataclasses import asdict

import pytest
import yaml
from configs import LLAMA as CONFIG
from conftest import ROOT

from sintra.cli.commands import devices
from sintra.config import compose
from sintra.core.errors import UserError
from sintra.hardware.detect.profile import write
from sintra.hardware.estimate import calibrate
from sintra.hardware.estimate.architecture import of_config, shape
from sintra.hardware.estimate.estimate import bytes_read, estimate, weights_read


def profile(hardware):
    return asdict(compose.compose(ROOT, [f"hardware={hardware}"]).hardware)


def speed(conf, shape):
    return next(
        m for m in estimate(shape, devices.device_of(conf), 64) if m.metric == "device_tg_tps"
    )


def test_measurements_draw_the_profile_to_the_truth(tmp_path, capsys):
    from configs import LLAMA3_8B

    conf = profile("laptop")
    truth = conf | {"efficiency": conf["efficiency"] * 0.8}
    rows, widths, errors = [], [], []
    before = speed(conf, LLAMA3_8B)
    target = speed(truth, LLAMA3_8B).value
    for factor in (1.03, 0.98, 1.0, 1.02, 0.97):
        rows.append(
            f"{bytes_read(LLAMA3_8B, 64)},{weights_read(LLAMA3_8B)},{LLAMA3_8B.layers},"
            f"{target * factor}"
        )
        (tmp_path / "own.csv").write_text(
            "read_bytes,weights,layers,tg_tps\n" + "\n".join(rows) + "\n"
        )
        devices.calibrate(
            ROOT,
            ["hardware=laptop", f"store.path={tmp_path}"],
            str(tmp_path / "own.csv"),
            str(tmp_path / "mine.yaml"),
        )
        after = speed(profile(tmp_path / "mine.yaml"), LLAMA3_8B)
        widths.append(after.high / after.low)
        errors.append(abs(after.value / target - 1))
        assert after.low < target < after.high
    assert before.high / before.low > widths[0] > widths[-1]
    assert widths == sorted(widths, reverse=True)
    assert errors[-1] < 0.03 < abs(before.value / target - 1)
    assert "efficiency_spread" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["name"] == "laptop"


def rows_of(truth, wobble):
    """What a device with this profile would measure of two models in six types, each row a little
    off.
    """
    device, rows = devices.device_of(truth), []
    for layers, width in ((8, 256), (18, 1024)):
        config = CONFIG | {
            "num_hidden_layers": layers,
            "hidden_size": width,
            "intermediate_size": 4 * width,
        }
        for kind in ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"):
            found = shape(of_config(config), kind)
            tps = speed(truth, found).value * next(wobble)
            ram = kind, device.runtime_bytes * next(wobble)
            rows.append(
                (
                    found,
                    calibrate.Row(
                        bytes_read(found, 64), weights_read(found), layers, tps, found.types, ram[1]
                    ),
                )
            )
    return rows


def test_small_models_in_a_cache_are_learnt_too():
    """There types differ by what computing them costs, and layers by their calls."""
    before = profile("laptop")
    costs = {"Q8_0": 0.8, "Q6_K": 1.1, "Q5_K": 1.3, "Q4_K": 1.2, "Q3_K": 1.9, "Q2_K": 1.7}
    truth = before | {
        "efficiency": 0.4,
        "overhead_us_per_layer": 20.0,
        "type_costs": costs,
        "runtime_mib": 52.0,
    }
    wobble = itertools.cycle((1.02, 0.97, 1.0, 1.03, 0.98))
    rows = rows_of(truth, wobble)
    after = calibrate.refined(before, [r for _, r in rows])
    for found, row in rows:
        true, guess, blind = (speed(conf, found) for conf in (truth, after, before))
        assert guess.value == pytest.approx(true.value, rel=0.07)
        assert guess.low < true.value < guess.high
        assert guess.high / guess.low < blind.high / blind.low
        others = calibrate.refined(before, [r for _, r in rows if r is not row])
        foretold = speed(others, found)
        assert foretold.low < true.value < foretold.high, "a row foretold by the others"
    assert after["type_costs"]["Q3_K"] / after["type_costs"]["Q8_0"] == pytest.approx(
        1.9 / 0.8, rel=0.2
    )
    assert after["runtime_mib"] == pytest.approx(52, rel=0.06)
    assert after["runtime_spread_mib"] < before["runtime_spread_mib"] / 4
    ram = next(
        m
        for m in estimate(rows[0][0], devices.device_of(after), 64)
        if m.metric == "device_ram_bytes"
    )
    assert ram.high - ram.low == pytest.approx(2 * after["runtime_spread_mib"] * 2**20, rel=1e-3)


def test_a_profile_with_costs_is_a_file(tmp_path):
    conf = profile("laptop") | {
        "type_costs": {"Q4_K": 1.25},
        "runtime_mib": 51.5,
    }
    write(tmp_path / "mine.yaml", conf, ["a test"])
    again = profile(tmp_path / "mine.yaml")
    assert again["type_costs"] == {"Q4_K": 1.25}
    assert devices.device_of(again).runtime_bytes == int(51.5 * 2**20)


def test_mistakes_are_lines(tmp_path):
    (tmp_path / "own.csv").write_text("read_bytes,weights\n1,2\n")
    with pytest.raises(UserError, match="columns read_bytes, weights, layers, tg_tps"):
        calibrate.read(tmp_path / "own.csv")
    with pytest.raises(UserError, match="nothing was measured here yet"):
        devices.calibrate(ROOT, ["hardware=laptop", f"store.path={tmp_path}"], "", "")
    conf = profile("rtx_4090")
    with pytest.raises(
        UserError, match=r"1e\+06 tokens/s can't be of this device: the profile gives \d+"
    ):
        calibrate.refined(conf, [calibrate.Row(1e6, 1e6, 32, 1e6)])
