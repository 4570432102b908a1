"""Plugins: the example package in an environment of its own, and broken ones beside it."""

import json
import os
import shutil
import subprocess
import time

import pytest
from conftest import QUICK, ROOT, make_project
from hooks import plugin
from wheel import environment


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """The Python of an environment with the example plugin, which sees this Sintra and its
    packages.
    """
    folder = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(ROOT / "examples" / "plugin", folder / "source")
    return environment(folder / "env", source, more=(ROOT,)) / "python"


def doit(python, folder, *args, **env):
    command = [str(python), "-m", "doit", *args]
    return subprocess.run(
        command, cwd=folder, env=os.environ | env, capture_output=True, text=True, timeout=600
    )


def test_the_example_adds_a_stage_and_a_listener(python, tmp_path, studied, tiny):
    project = make_project(tmp_path / "project", studied.root / "cache")
    wanted = (
        "hardware=jetson_nano",
        f"model={tiny}",
        *QUICK,
        "extra=[letters]",
        "listeners=[diary]",
    )
    without = project.doit("optimize", *wanted)
    assert without.returncode == 2
    assert "no plugin offers" in without.stderr

    done = doit(python, project.root, "optimize", *wanted)
    assert done.returncode == 0, done.stderr
    latest = project.root / "outputs" / "latest"
    assert any(s.startswith("letters:") for s in project.built(done))
    result = project.result()
    numbers = {m["metric"]: m for m in result["winner"]["measurements"]}
    assert numbers["letters_tensors"]["how"] == "exact"
    lines = (latest / "extra" / "letters" / "letters.txt").read_text().splitlines()
    assert sum(int(x.split()[1]) for x in lines) == numbers["letters_tensors"]["value"]
    assert (
        "extra/letters/letters.txt" in json.loads((latest / "manifest.json").read_text())["files"]
    )

    diary = project.root / "outputs" / "diary.txt"
    until = time.monotonic() + 60
    while (not diary.exists() or " met" not in diary.read_text()) and time.monotonic() < until:
        time.sleep(0.1)
    kinds = [x.split()[2] for x in diary.read_text().splitlines()]
    assert kinds[0] == "started"
    assert kinds[-1] == "met"
    assert kinds.count("round") == result["rounds"]
    assert kinds.count("candidate") >= len([c for c in result["candidates"] if not c["failure"]])

    again = doit(python, project.root, "optimize", *wanted)
    assert project.built(again) == []


def test_what_is_there_and_what_is_broken(python, tmp_path):
    folder = plugin(
        tmp_path / "plugins",
        "broken",
        "raise ImportError('no such thing')\n",
        {
            "stages": {"bad": "broken:STAGE"},
            "planners": {"worse": "nowhere:propose", "ladder": "broken:propose"},
        },
    )
    plugin(folder, "leaves", "raise SystemExit(7)\n", {"exports": {"gone": "leaves:export"}})
    plugin(
        folder,
        "wrong",
        "STAGE = 3\ndef propose(study, history):\n    return []\n",
        {"probes": {"number": "wrong:STAGE"}, "planners": {"idle": "wrong:propose"}},
    )
    (tmp_path / "dodo.py").symlink_to(ROOT / "dodo.py")
    done = doit(python, tmp_path, "plugins", "--format", "json", PYTHONPATH=str(folder))
    assert done.returncode == 1
    found = {(p["name"], p["package"]): p["trouble"] for p in json.loads(done.stdout)}
    assert found["bad", "broken 1.0"] == "ImportError: no such thing"
    assert "nowhere" in found["worse", "broken 1.0"]
    assert found["ladder", "broken 1.0"] == "the name is taken by sintra"
    assert found["gone", "leaves 1.0"] == "SystemExit: 7"
    assert found["number", "wrong 1.0"] == "it is a int, not a sintra.core.stage.Stage"
    assert (
        found["idle", "wrong 1.0"]
        == found["letters", "sintra-letters 1.0"]
        == found["diary", "sintra-letters 1.0"]
        == ""
    )
    assert not [p for (_, package), p in found.items() if package.startswith("sintra ") and p]
    sound = doit(python, tmp_path, "plugins")
    assert sound.returncode == 0, sound.stdout
    assert "can't be loaded" not in sound.stdout
