"""Device profiles as people share them: mistakes of units and YAML, and what may not be there."""

import json
import os
import subprocess
import sys

import pytest
from conftest import ROOT

from sintra.config import compose
from sintra.config.profile_file import read_profile_file
from sintra.config.study import study_of
from sintra.core.errors import UserError
from sintra.hardware import profiles

GOOD = {
    "name": "mine",
    "backend": "cpu",
    "cores": 4,
    "isa": "aarch64",
    "ram_gb": 8,
    "usable_gb": 6,
    "bandwidth_gbs": 17,
}


def write(folder, **changed):
    """A profile's file; the values as they are written in YAML."""
    path = folder / "mine.yaml"
    path.write_text("".join(f"{key}: {value}\n" for key, value in (GOOD | changed).items()))
    return path


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"ram_gb": "8GB"}, "ram_gb: 8GB isn't a number: write 8"),
        ({"ram_gb": '"8 GiB"'}, "ram_gb: 8 GiB isn't a number: write 8"),
        ({"bandwidth_gbs": '"17,1"'}, "bandwidth_gbs: 17,1 isn't a number: write 17.1"),
        ({"tflops": "275 TOPS"}, "275 TOPS isn't a number: write the number alone, in TFLOP/s"),
        ({"cores": "3.5"}, "cores: 3.5 isn't a whole number"),
        ({"cores": "010"}, "cores: 010 would be octal in YAML: write 10"),
        ({"ram_gb": "null"}, "ram_gb: null isn't a number"),
        ({"ram_gb": ""}, "ram_gb: nothing isn't a number"),
        ({"bandwidth_gbs": ".inf"}, "bandwidth_gbs: .inf isn't a finite number"),
        ({"usable_gb": ".nan"}, "usable_gb: .nan isn't a finite number"),
        ({"isa": "[aarch64, dotprod]"}, "isa is a list or a mapping: write a single value"),
        ({"runtimes": "llama.cpp"}, "runtimes isn't a list: write [llama.cpp]"),
        ({"thermal": "80"}, "thermal isn't a mapping of names to numbers"),
        ({"thermal": "{throttle_c: 80 C}"}, "thermal.throttle_c: 80 C isn't a number"),
        ({"title": "${oc.env:HOME}"}, "title: ${oc.env:HOME}: a profile holds plain values"),
        ({"title": "'${ oc.env:HOME}'"}, "a profile holds plain values"),
        ({"isa": "${nosuch}"}, "a profile holds plain values"),
        ({"usable_gb": "${.ram_gb}"}, "a profile holds plain values"),
        ({"type_costs": "{'${oc.env:HOME}': 1}"}, "a profile holds plain values"),
        ({"title": "!!python/object/apply:os.system [ls]"}, "title is a list or a mapping"),
        ({"title": "!!python/name:os.system x"}, "the tag tag:yaml.org,2002:python/name:os"),
        ({"title": "&a [*a]"}, "title is a list or a mapping"),
        ({"<<": "{a: 1}"}, "the tag tag:yaml.org,2002:merge"),
        ({"defaults": "[laptop]"}, "a profile has no 'defaults'"),
        ({"hardware": "{ram_gb: 8}"}, "a profile has no 'hardware'"),
        ({"# @package _global_\nseed": "1"}, "`# @package` isn't taken"),
        ({"cores ": "4"}, "cores is given twice"),
    ],
)
def test_a_mistake_is_a_line_with_file_and_key(tmp_path, changed, says):
    with pytest.raises(UserError) as caught:
        read_profile_file(write(tmp_path, **changed))
    message = str(caught.value)
    assert message.startswith("mine.yaml: ")
    assert says in message
    assert message.isprintable()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is empty"),
        (b"name: x\n\tcores: 4\n", "line 2 can't be read: YAML is indented by spaces"),
        (b"title: Ger\xe4t\nram_gb: 8\n", "line 1 isn't UTF-8"),
        ("ram_gb: 8\n".encode("utf-16"), "isn't UTF-8"),
        (b"ram_gb: 8\n---\nram_gb: 16\n", "can't be read"),
        (b"[" * 600, "can't be read"),
        (b"- 1\n", "is not a profile"),
        (b"ram_gb: 8\ntitle: '${\n", "line 3 can't be read"),
        (b"? [a]\n: 1\n", "is a list or a mapping"),
        (b"a\x1b: 1\n", "can't be read"),
    ],
)
def test_a_file_that_is_no_profile_is_a_line(tmp_path, data, says):
    path = tmp_path / "mine.yaml"
    path.write_bytes(data)
    with pytest.raises(UserError) as caught:
        read_profile_file(path)
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_what_can_be_meant_is_taken(tmp_path):
    """A BOM, Windows' line ends, names that YAML reads as numbers, numbers it reads as text."""
    plain = write(tmp_path, bandwidth_gbs="1.7e1", cores='"4"', tflops="null", isa="", thermal="")
    text = plain.read_bytes()
    for data in (text, b"\xef\xbb\xbf" + text, text.replace(b"\n", b"\r\n")):
        plain.write_bytes(data)
        found = read_profile_file(plain)
        assert found == GOOD | {
            "title": "mine",
            "bandwidth_gbs": 17.0,
            "tflops": None,
            "isa": "",
            "thermal": {},
        }
    for name in ("1.10", "null", "true", "1e5", "010"):
        assert read_profile_file(write(tmp_path, title=name, name=name))["title"] == name
    unnamed = tmp_path / "my ${x}, board.yaml"
    unnamed.write_text("ram_gb: 4\n")
    assert read_profile_file(unnamed) == {
        "name": "my-x-board",
        "title": "my ${x}, board",
        "ram_gb": 4.0,
    }


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"name": "../up"}, "mine.yaml: name: ../up isn't a name"),
        ({"title": '"a\\nRUN evil"'}, "mine.yaml: title: a\\nRUN evil has characters that can't"),
        ({"ram_gb": 8192, "usable_gb": 6144}, "mine.yaml: ram_gb: 8192 isn't a number from 0.01"),
    ],
)
def test_a_profile_is_checked_when_composed(tmp_path, changed, says):
    path = write(tmp_path, **changed)
    with pytest.raises(UserError) as caught:
        compose.compose(ROOT, [f"hardware={path}"])
    assert says in str(caught.value)
    assert str(caught.value).isprintable()


def test_a_profile_of_a_shared_folder_sets_nothing_but_the_device(tmp_path, monkeypatch):
    """SINTRA_CONF_PATH: what is read there is read as strictly, by `hardware=` and `--devices`."""
    (tmp_path / "hardware").mkdir()
    path = write(tmp_path / "hardware").rename(tmp_path / "hardware" / "shared.yaml")
    monkeypatch.setenv("SINTRA_CONF_PATH", str(tmp_path))
    study = study_of(compose.compose(ROOT, ["hardware=shared"]), [])
    assert study.hardware.ram_bytes == 8 * 2**30
    for text, says in (
        ("# @package _global_\nplanner:\n  base_url: http://evil.example\n", "@package"),
        ("name: x\ntitle: ${oc.env:HOME}\n", "plain values"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=says):
            compose.compose(ROOT, ["hardware=shared"])
        with pytest.raises(UserError, match=says):
            profiles.read_profiles(ROOT)


def test_the_command_ends_with_2_and_one_line(tmp_path):
    """The whole way, as a process: nothing is started, the secret is in no output and no file."""
    write(tmp_path, title="${ oc.env:SECRET}")
    for name in ("dodo.py", "conf", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    command = [sys.executable, "-m", "doit", "plan", "hardware=./mine.yaml"]
    env = {**os.environ, "SECRET": "word-that-nobody-reads", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "mine.yaml: title: ${ oc.env:SECRET}" in done.stderr
    assert env["SECRET"] not in done.stdout + done.stderr + json.dumps(
        [p.read_text(errors="replace") for p in tmp_path.rglob("*") if p.is_file()]
    )
