"""Paths and names as people have them: commas, quotes, `${`, `~`, words that YAML reads."""

import random
import shutil
from pathlib import Path

import pytest
from conftest import ROOT

from sintra.config import compose
from sintra.config.quoting import has_foreign_interpolation, quoted, unquoted, user_path
from sintra.config.slugs import check_line, check_name, is_name, slug
from sintra.core.errors import UserError
from sintra.study import sweep
from sintra.study.workspace import cache_root

NAMES = (
    "with space",
    "été 模型",
    "lr=1e-4,ep=3",
    "it's mine",
    'quo"te',
    "back\\slash",
    "${weird}",
    "${oc.env:HOME}",
    "a$b",
    "[brackets]",
    "{braces}",
    "tilde~",
    "-dash",
    "trail ",
    "q'}",
    "model.gguf",
    "config.json",
    "null",
    "true",
    "1.10",
    "1e5",
    "choice(a,b)",
)


def through_hydra(value):
    """What OmegaConf holds after an override with this value."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from omegaconf import OmegaConf

    parsed = OverridesParser.create().parse_override(f"x={value}")
    return OmegaConf.create({"x": parsed.value()}).x


@pytest.mark.parametrize("text", [*NAMES, "", "'", "\\", "\\'", "\\${x}", "a\\\\${x}'\\", "~/x"])
def test_a_quoted_text_is_that_text(text):
    assert through_hydra(quoted(text)) == text


def test_any_text_is_that_text_when_quoted():
    draw = random.Random(0)
    for _ in range(150):
        text = "".join(draw.choices("""\\\\$${{}}''"",[]=:a~. é""", k=draw.randint(1, 12)))
        assert through_hydra(quoted(text)) == text, repr(text)


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ('"/tmp/my cache=1"', "/tmp/my cache=1"),
        ("'a,b'", "a,b"),
        ("'it\\'s'", "it's"),
        ("it's", "it's"),
        ("'a' or 'b'", "'a' or 'b'"),
        ("'", "'"),
        ("''", ""),
        ("", ""),
    ],
)
def test_quotes_around_are_taken_off(typed, text):
    assert unquoted(typed) == text


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_any_name_is_one_model(tmp_path, name):
    """Neither a sweep, nor an interpolation, nor a number; what Hydra gets is the folder."""
    folder = tmp_path / name
    folder.mkdir()
    assert not sweep.has_several_values(tmp_path, f"model={folder}")
    values = dict(o.partition("=")[::2] for o in compose.checked(ROOT, [f"model={folder}"]))
    source = through_hydra(values["model.source"])
    assert Path(source) == folder
    assert not source.endswith(".gguf")
    assert is_name(through_hydra(values["model.name"]))


@pytest.mark.parametrize("name", NAMES)
def test_a_text_of_any_name_is_that_file(tmp_path, name):
    path = tmp_path / name
    path.write_text("text")
    for value in (str(path), f'"{path}"') if '"' not in name else (str(path),):
        assert not sweep.has_several_values(tmp_path, f"texts.search={value}")
        option = compose.checked(ROOT, [f"texts.search={value}"])[0].partition("=")[2]
        assert through_hydra(option) == str(path)


def test_a_list_of_what_is_not_there_stays_a_list(tmp_path):
    assert sweep.has_several_values(tmp_path, "texts.search=a.txt,b.txt")
    (tmp_path / "a.txt,b.txt").write_text("one")
    assert not sweep.has_several_values(tmp_path, "texts.search=a.txt,b.txt")


def test_a_home_is_expanded_in_one_way(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert user_path("~/x") == tmp_path / "x"
    assert user_path("~nobody-has-this/x") == Path("~nobody-has-this/x")
    assert user_path("x~") == Path("x~")
    assert cache_root(ROOT, ['store.path="~/cachefield"']) == tmp_path / "cachefield"


@pytest.mark.parametrize("value", ["", "''", "null"])
@pytest.mark.parametrize("key", ["texts.search", "texts.calibration", "store.path"])
def test_a_path_that_is_needed_is_said(key, value):
    with pytest.raises(UserError, match=f"{key}={value} names nothing: give a f"):
        compose.checked(ROOT, [f"{key}={value}"])


@pytest.mark.parametrize(
    "text",
    [
        "${oc.env:HOME}",
        "${ oc.env:HOME}",
        "${oc.env :HOME}",
        "a${b}${oc.env:HOME}",
        "${${x}:HOME}",
        "\\\\${oc.env:HOME}",
        "${now:%Y}",
        "${",
        "${}",
        "${oc.decode:'${oc.env:HOME}'}",
    ],
)
def test_no_resolver_on_the_command_line(text):
    assert has_foreign_interpolation(text)
    for key in ("goal.max_kld", "planner.types", "executor.sbatch", "planner.base_url"):
        with pytest.raises(UserError, match="the environment isn't read"):
            compose.checked(ROOT, [f"{key}={text}"])


@pytest.mark.parametrize("text", ["${hardware.usable_gb}", "${.ram_gb}", "\\${oc.env:HOME}", "$x"])
def test_references_to_other_options_stay(text):
    assert not has_foreign_interpolation(text)


@pytest.mark.parametrize("group", ["conf", "goal"])
def test_no_resolver_in_a_file_of_conf(tmp_path, monkeypatch, group):
    """Neither in a value, nor in what Hydra resolves by itself: a list of defaults."""
    monkeypatch.setenv("SECRET_GOAL", "quality")
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    if group == "goal":
        path = tmp_path / "conf" / "goal" / "small.yaml"
        path.write_text("name: ${oc.env:SECRET_GOAL}\n")
    else:
        path = tmp_path / "conf" / "config.yaml"
        text = path.read_text()
        path.write_text(text.replace("goal: balanced", "goal: ${oc.env:SECRET_GOAL}"))
    with pytest.raises(UserError, match="the environment isn't read") as caught:
        compose.compose(tmp_path, ["goal=small"] if group == "goal" else [])
    if group == "goal":
        assert "conf/goal/small.yaml: name: ${oc.env:SECRET_GOAL}" in str(caught.value)
    from omegaconf import OmegaConf

    assert OmegaConf.create({"x": "${oc.env:SECRET_GOAL}"}).x == "quality", "others may still"


@pytest.mark.parametrize(
    "name", ["a/b", "../x", "..", ".hidden", "-x", "", "a b", "a\nb", "x" * 101, "a\\b", "é"]
)
def test_a_name_that_becomes_a_path_is_a_slug(name):
    with pytest.raises(UserError, match="isn't a name") as caught:
        check_name("model.name", name)
    assert "\n" not in str(caught.value)
    assert is_name(slug(name))


def test_a_model_of_a_bad_name_is_refused_before_anything_is_built():
    with pytest.raises(UserError, match=r"model.name=\.\./\.\./x isn't a name"):
        compose.compose(ROOT, ["model.name=../../x"])
    model = compose.compose(ROOT, ["model.name=1.10", "planner.model=null"])
    assert (model.model.name, model.planner.model) == ("1.10", "null")


def test_a_name_that_is_typed_wins_over_the_folders(tmp_path):
    for raw in (["model.name=mine", f"model={tmp_path}"], [f"model={tmp_path}", "model.name=mine"]):
        names = [o for o in compose.checked(ROOT, raw) if o.startswith("model.name=")]
        assert names == ["model.name='mine'"]


def test_a_text_is_a_printable_line():
    for text in ("a\nb", "a\x1b[2J", "\u202eabc", "a\u2028b"):
        with pytest.raises(UserError, match="single plain line"):
            check_line("title", text)
    with pytest.raises(UserError, match="use 120 at most"):
        check_line("title", "x" * 121, 120)
