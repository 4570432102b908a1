"""The command line: every mistake is one line with the nearest valid name."""

import subprocess
import sys

import pytest
from conftest import ROOT

from sintra.config import compose
from sintra.config.options import ModelConf
from sintra.config.study import study_of
from sintra.config.texts import judged_on_stories, texts_of
from sintra.core.errors import UserError
from sintra.study.workspace import open_workspace


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("goal.max_kld=" + "9" * 400, "int too large to convert to float"),
        ("hardware=jetson_nan", "did you mean 'jetson_nano'"),
        ("hardwar=laptop", "did you mean 'hardware'"),
        ("goal.max_kdl=0.1", "did you mean 'goal.max_kld'"),
        ("goal.max_kld=four", "could not be converted to Float"),
        ("probe.context=1.5", "probe.context"),
        ("model=fabel", "did you mean 'fable'"),
        ("model=./nowhere", "no such folder"),
        ("+x=1", "every key exists"),
        ("~seed=1", "every key exists"),
        ("planner=zzz", "known are"),
        ("texts=onw", "did you mean 'own'"),
        ("texts=models", "the folder has no calibration.txt"),
    ],
)
def test_mistakes(override, says):
    with pytest.raises(UserError, match=None) as caught:
        compose.compose(ROOT, [override])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_given_twice():
    with pytest.raises(UserError, match="given twice"):
        compose.compose(ROOT, ["seed=1", "seed=2"])


def test_unknown_metric():
    with pytest.raises(UserError, match="isn't a metric: did you mean 'size_bytes'"):
        study_of(compose.compose(ROOT, ["goal.optimise=size_byte"]), [])


def test_limits_in_base_units():
    conf = compose.compose(
        ROOT,
        ["hardware=jetson_nano", "goal.max_size_mb=3", "goal.max_ram_gb=2", "goal.min_tg_tps=7"],
    )
    limits = {c.option: (c.metric, c.op, c.limit) for c in study_of(conf, []).goal.constraints}
    assert limits["goal.max_size_mb"] == ("size_bytes", "<=", 3e6)
    assert limits["goal.max_ram_gb"] == ("device_ram_bytes", "<=", 2 * 2**30)
    assert limits["goal.min_tg_tps"] == ("device_tg_tps", ">=", 7)
    assert limits["hardware=jetson_nano"] == ("device_ram_bytes", "<=", 3 * 2**30)


@pytest.mark.parametrize("hardware", sorted(compose.names(ROOT, "hardware")))
def test_every_profile_is_whole(hardware):
    conf = compose.compose(ROOT, [f"hardware={hardware}"]).hardware
    assert conf.name == hardware
    assert 0 < conf.usable_gb < conf.ram_gb
    assert 0 < conf.efficiency < 1
    first = (ROOT / "conf" / "hardware" / f"{hardware}.yaml").read_text().splitlines()[0]
    assert first.startswith("#"), "the source of the facts"


@pytest.mark.parametrize("group", ["goal", "planner", "probe", "store", "model", "texts"])
def test_every_option_composes(group):
    for name in compose.names(ROOT, group):
        assert getattr(compose.compose(ROOT, [f"{group}={name}"]), group).name in (name, "")


def test_own_conf_folder(tmp_path, monkeypatch):
    (tmp_path / "hardware").mkdir()
    (tmp_path / "hardware" / "fridge.yaml").write_text("name: fridge\nram_gb: 1\nusable_gb: 0.5\n")
    monkeypatch.setenv("SINTRA_CONF_PATH", str(tmp_path))
    assert compose.compose(ROOT, ["hardware=fridge"]).hardware.usable_gb == 0.5
    monkeypatch.setenv("SINTRA_CONF_PATH", str(tmp_path / "gone"))
    with pytest.raises(UserError, match="not a folder"):
        compose.compose(ROOT, [])


def test_models_by_name_folder_and_hub(tiny):
    assert compose.compose(ROOT, ["model=fable"]).model.source == "models/fable"
    assert compose.compose(ROOT, [f"model={tiny}"]).model == ModelConf(
        name="tiny", source=str(tiny), revision="main", convert="f16", trust_remote_code=False
    )
    assert compose.compose(ROOT, ["model=owner/some-name@v1"]).model.revision == "v1"


def test_a_study_keeps_its_name_and_changes_it_with_its_limits(tmp_path, tiny):
    raw = [f"model={tiny}", f"store.path={tmp_path}"]
    one, two = open_workspace(ROOT, raw).study.id, open_workspace(ROOT, raw).study.id
    assert one == two
    assert open_workspace(ROOT, [*raw, "goal.max_kld=0.5"]).study.id != one


def test_a_known_command_line_needs_no_hydra(tmp_path):
    compose.compose(ROOT, ["seed=3"], cache=tmp_path)
    code = (
        "import sys; from pathlib import Path; from sintra.config import compose\n"
        f"print(compose.compose(Path({str(ROOT)!r}), ['seed=3'], "
        f"cache=Path({str(tmp_path)!r})).seed)\nprint([m for m in ('hydra', 'omegaconf') if m "
        "in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[:2] == ["3", "[]"]


def texts(*raw):
    return texts_of(compose.compose(ROOT, list(raw))).paths


def test_a_model_is_judged_on_its_own_kind_of_text(tiny, tmp_path):
    stories = texts("model=fable")
    assert stories["report"] == "models/texts/report.txt"
    assert texts(f"model={ROOT / 'models' / 'fable'}") == stories
    own = {"calibration": "own", "search": "own", "report": "own"}
    assert texts(f"model={tiny}") == own | {"second": "models/texts/second.txt"}
    assert texts("model=owner/name", "texts.second=null") == own
    assert texts(f"model={tiny}", "texts=stories") == stories
    assert texts(f"model={tiny}", "texts.report=x.txt")["report"] == "x.txt"
    for name in ("calibration", "search", "report"):
        (tmp_path / f"{name}.txt").write_text(name)
    folder = texts(f"texts={tmp_path}", "texts.search=own")
    assert folder == {n: str(tmp_path / f"{n}.txt") for n in ("calibration", "report")} | {
        "search": "own"
    }


def test_own_texts_differ_by_role_and_seed(tiny, tmp_path):
    raw = [f"model={tiny}", f"store.path={tmp_path}"]
    graph = open_workspace(ROOT, raw).graph()
    steps = [graph.text(role) for role in ("calibration", "search", "report")]
    assert [s.stage for s in steps] == ["trace"] * 3
    assert len({s.params["seed"] for s in steps}) == 3
    assert steps[0].params["tokens"] == 20_480
    assert graph.text("second").stage == "fetch"
    other = open_workspace(ROOT, [*raw, "seed=1"]).graph()
    assert not {s.params["seed"] for s in steps} & {
        other.text(role).params["seed"] for role in ("calibration", "search", "report")
    }


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("texts.temperature=0", "above 0"),
        ("texts.chat=1.5", "isn't a share from 0 to 1"),
        ("texts=custom", "texts.calibration isn't named"),
    ],
)
def test_texts_that_cannot_be(override, says):
    with pytest.raises(UserError, match=says):
        texts(override)


def test_who_is_judged_on_stories_is_told(tiny):
    for raw, told in (
        ([], False),
        ([f"model={tiny}"], False),
        ([f"model={tiny}", "texts=stories"], True),
    ):
        config = compose.compose(ROOT, raw)
        assert judged_on_stories(config, texts_of(config)) is told
