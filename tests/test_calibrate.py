"""Measurements of a device of one's own make its profile better and its interval narrower."""

import pytest
import yaml
from conftest import ROOT

from sintra import config, devices
from sintra.errors import UserError
from sintra.hardware import calibrate
from sintra.hardware.estimate import bytes_read, estimate, weights_read
from sintra.study import hardware_of


def speed(conf, shape):
    return next(m for m in estimate(shape, hardware_of(conf), 64) if m.metric == "device_tg_tps")


def test_measurements_draw_the_profile_to_the_truth(tmp_path, capsys):
    from test_estimate import LLAMA3_8B

    conf = config.compose(ROOT, ["hardware=laptop"])["hardware"]
    truth = conf | {"efficiency": conf["efficiency"] * 0.8}
    rows, widths, errors = [], [], []
    before = speed(conf, LLAMA3_8B)
    target = speed(truth, LLAMA3_8B).value
    for factor in (1.03, 0.98, 1.0, 1.02, 0.97):
        rows.append(f"{bytes_read(LLAMA3_8B, 64)},{weights_read(LLAMA3_8B)},{LLAMA3_8B.layers},{target * factor}")
        (tmp_path / "own.csv").write_text("read_bytes,weights,layers,tg_tps\n" + "\n".join(rows) + "\n")
        devices.calibrate(
            ROOT, ["hardware=laptop", f"store.path={tmp_path}"], str(tmp_path / "own.csv"), str(tmp_path / "mine.yaml")
        )
        after = speed(config.compose(ROOT, [f"hardware={tmp_path / 'mine.yaml'}"])["hardware"], LLAMA3_8B)
        widths.append(after.high / after.low)
        errors.append(abs(after.value / target - 1))
        assert after.low < target < after.high
    assert before.high / before.low > widths[0] > widths[-1]
    assert widths == sorted(widths, reverse=True)
    assert errors[-1] < 0.03 < abs(before.value / target - 1)
    assert "efficiency_spread" in capsys.readouterr().out
    assert yaml.safe_load((tmp_path / "mine.yaml").read_text())["name"] == "laptop"


def test_mistakes_are_lines(tmp_path):
    (tmp_path / "own.csv").write_text("read_bytes,weights\n1,2\n")
    with pytest.raises(UserError, match="columns read_bytes, weights, layers, tg_tps"):
        calibrate.read(tmp_path / "own.csv")
    with pytest.raises(UserError, match="nothing was measured here yet"):
        devices.calibrate(ROOT, ["hardware=laptop", f"store.path={tmp_path}"], "", "")
    conf = config.compose(ROOT, ["hardware=rtx_4090"])["hardware"]
    with pytest.raises(UserError, match=r"1e\+06 tokens/s can't be of this device: the profile gives \d+"):
        calibrate.refined(conf, [calibrate.Row(1e6, 1e6, 32, 1e6)])
