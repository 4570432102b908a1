"""Numbers as people mistype them: not finite, out of range, in another unit by 1000."""

from dataclasses import asdict, fields, is_dataclass, replace

import pytest
from conftest import ROOT

from sintra.config import checks, compose
from sintra.config.options import Config
from sintra.config.ranges import RANGES, THERMAL, count_of, range_of
from sintra.core.errors import UserError
from sintra.hardware.estimate import thermal

NAMED = replace(Config(), hardware=replace(Config().hardware, name="mine"))
NOWHERE = checks.Origins(ROOT, (), {})


def options(**changed):
    """Composed options in JSON's types, with dotted keys (in the place of `.`: `__`) changed."""
    values = asdict(NAMED)
    for key, value in changed.items():
        *groups, last = key.split("__")
        node = values
        for group in groups:
            node = node[group]
        node[last] = value
    return values


def number_options(kind=Config, prefix=""):
    """Yield every option that is a number, or a mapping to numbers (`.*`)."""
    for option in fields(kind):
        default = option.default_factory() if callable(option.default_factory) else None
        if is_dataclass(default):
            yield from number_options(type(default), f"{prefix}{option.name}.")
        elif str(option.type).startswith("dict") and "float" in str(option.type):
            yield f"{prefix}{option.name}.*"
        elif {"int", "float", "tuple[int, ...]"} & set(str(option.type).split(" | ")):
            yield prefix + option.name


def test_every_number_has_a_range():
    listed = set(RANGES) | {"hardware.thermal.*"}
    assert {k for k in number_options() if k not in listed} == set()
    known = {*number_options(), *(f"hardware.thermal.{k}" for k in THERMAL)}
    assert {k for k in RANGES if k not in known} == set()
    assert frozenset(thermal.KEYS) == THERMAL


def test_defaults_and_profiles_are_in_range():
    checks.check_values(asdict(NAMED), NOWHERE)


@pytest.mark.parametrize("key", sorted(RANGES))
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_no_number_that_is_not_finite(key, value):
    assert value not in range_of(key)
    assert "finite" in range_of(key).words(value)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"probe__context": 0}, "probe.context=0 isn't a number from 8 up (tokens)"),
        ({"probe__context": -5}, "probe.context=-5 isn't a number"),
        ({"probe__depth": [512, -1]}, "probe.depth=[512, -1] isn't a number from 0 up"),
        ({"probe__speed_repeat": 0}, "probe.speed_repeat=0 isn't a number from 1"),
        ({"goal__max_kld": -1.0}, "goal.max_kld=-1 isn't a number from 0 up (nats)"),
        ({"goal__min_same_top": 99.0}, "a share from 0 to 1; 99 percent would be 0.99"),
        ({"max_rounds": 0}, "max_rounds=0 isn't a number from 1"),
        ({"limits__timeout": {"quantize": float("nan")}}, "limits.timeout.quantize=nan isn't a"),
        ({"executor__resources": {"x": -1.0}}, "executor.resources.x=-1 isn't"),
        ({"hardware__ram_gb": 8192.0}, "8192 MiB would be 8"),
        ({"hardware__ram_gb": 2.0**33}, "8589934592 bytes would be 8"),
        ({"hardware__bandwidth_gbs": 17_000.0}, "17000 MB/s would be 17"),
        ({"hardware__bandwidth_gbs": 4267.0}, "more GB/s than a CPU's memory has"),
        ({"hardware__bandwidth_gbs": 0.0171}, "0.0171 TB/s would be 17.1"),
        ({"hardware__efficiency": 63.0}, "63 percent would be 0.63"),
        ({"hardware__efficiency": 0.0}, "isn't a share of the bandwidth above 0"),
        ({"hardware__usable_gb": 16.0}, "is more than all of the memory"),
        ({"hardware__ram_gb": 2048.0}, "2048 MiB would be 2"),
        ({"hardware__storage_mbs": 1.5}, "1.5 GB/s would be 1500"),
        ({"hardware__tflops": 75.0}, "75 GFLOP/s would be 0.075"),
        ({"hardware__cores": -4}, "hardware.cores=-4 isn't a number from 1 to 4096"),
        ({"hardware__thermal": {"ambient": 22.0}}, "did you mean 'ambient_c'"),
        ({"hardware__thermal": {"ambient_c": 2200.0}}, "isn't a number from -50 to 200"),
        ({"hardware__backend": "nvidia"}, "did you mean 'cuda'"),
        ({"model__convert": "int8"}, "model.convert=int8 isn't known"),
    ],
)
def test_a_number_out_of_its_range_is_a_line(changed, says):
    with pytest.raises(UserError) as caught:
        checks.check_values(options(**changed), NOWHERE)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("64", 64),
        ("0", None),
        ("-1", None),
        ("²", None),
        ("1.5", None),
        ("", None),
        ("9" * 5000, None),
    ],
)
def test_a_count_of_a_command(text, count):
    assert count_of(text) == count


def test_a_large_server_is_no_mistake():
    epyc = options(hardware__ram_gb=6144.0, hardware__bandwidth_gbs=460.0)
    checks.check_values(epyc, NOWHERE)


def test_the_message_names_file_key_and_value(tmp_path):
    """From a folder of SINTRA_CONF_PATH, the project's conf, and the command line."""
    for name in ("conf", "models"):
        (tmp_path / name).mkdir()
    for path in (ROOT / "conf").iterdir():
        if path.name != "goal":
            (tmp_path / "conf" / path.name).symlink_to(path)
    goals = tmp_path / "conf" / "goal"
    goals.mkdir()
    (goals / "balanced.yaml").write_text("name: balanced\nmax_kld: .nan\n")
    (goals / "typed.yaml").write_text("name: typed\nmax_kld: 0.02 nats\n")
    for raw, says in (
        ([], "conf/goal/balanced.yaml: max_kld: nan isn't a finite number"),
        (["goal=typed"], "conf/goal/typed.yaml: max_kld: 0.02 nats: Value '0.02 nats'"),
        (["goal.max_kld=1e400"], "goal.max_kld=1e400 isn't a finite number"),
    ):
        with pytest.raises(UserError) as caught:
            compose.compose(tmp_path, raw)
        assert str(caught.value).startswith(says)
