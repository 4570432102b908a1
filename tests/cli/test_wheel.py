"""The wheel in a fresh environment and an empty folder, as a user has it."""

import json
import os
import shutil
import subprocess
import zipfile

import pytest
from conftest import QUICK, ROOT
from wheel import build, environment


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    return environment(folder / "env", build(folder))


@pytest.fixture
def run(installed, tmp_path):
    def command(*args):
        env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OLLAMA_HOST")} | {
            "PATH": f"{installed}:/usr/bin:/bin"
        }
        return subprocess.run(
            args, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=600
        )

    return command


def test_conf_has_one_source(installed):
    wheel = next((installed.parent.parent / "dist").glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        inside = {
            n.removeprefix("sintra/project/")
            for n in archive.namelist()
            if n.startswith("sintra/project/")
        }
        for path in (ROOT / "conf").rglob("*.yaml"):
            name = path.relative_to(ROOT).as_posix()
            assert archive.read(f"sintra/project/{name}") == path.read_bytes()
            inside.discard(name)
    assert {n.split("/")[0] for n in inside} == {"dodo.py", "models"}
    assert not [n for n in inside if n.endswith(".py") and n != "dodo.py"]


def test_the_wheel_carries_its_licence(installed):
    wheel = next((installed.parent.parent / "dist").glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith("/licenses/LICENSE")]
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()
        metadata = archive.read(name.replace("licenses/LICENSE", "METADATA")).decode()
    assert "License-Expression: Apache-2.0\n" in metadata
    assert b"Apache License" in (ROOT / "LICENSE").read_bytes()


def test_from_an_empty_folder_to_ollama(run, tmp_path, tiny, studied):
    before = run("sintra", "optimize", "hardware=laptop")
    assert (before.returncode, before.stderr.count("\n")) == (2, 1)
    assert "sintra init" in before.stderr

    started = run("sintra", "init")
    assert started.returncode == 0, started.stderr
    assert "doit optimize hardware=laptop" in started.stdout
    assert {p.name for p in tmp_path.iterdir()} == {"dodo.py", "conf", "models", ".gitignore"}

    where = run("python", "-c", "import sintra; print(sintra.__file__)").stdout
    assert "site-packages" in where
    assert str(ROOT) not in where

    plan = run("sintra", "plan", "hardware=laptop", "probe=quick")
    assert plan.returncode == 0, plan.stderr
    assert (
        plan.stdout == run("python", "-m", "doit", "plan", "hardware=laptop", "probe=quick").stdout
    )

    shutil.rmtree(tmp_path / "cache")
    shutil.copytree(studied.root / "cache", tmp_path / "cache")
    done = run("python", "-m", "doit", "optimize", "hardware=jetson_nano", f"model={tiny}", *QUICK)
    assert done.returncode == 0, done.stderr
    latest = tmp_path / "outputs" / "latest"
    digest = json.loads((latest / "result.json").read_text())["winner"]["artifact"]["sha256"]

    exported = run("sintra", "export_ollama")
    assert exported.returncode == 0, exported.stderr
    assert (latest / "ollama" / "blobs" / f"sha256-{digest}").exists()
    assert (latest / "ollama" / "Modelfile").read_text().startswith("FROM ./model.gguf")


def test_init_keeps_what_is_there(run, tmp_path):
    (tmp_path / "conf" / "goal").mkdir(parents=True)
    (tmp_path / "conf" / "goal" / "small.yaml").write_text("mine\n")
    done = run("sintra", "init")
    assert (
        "left as it is, though it differs from this version's: conf/goal/small.yaml" in done.stdout
    )
    assert (tmp_path / "conf" / "goal" / "small.yaml").read_text() == "mine\n"
    assert (tmp_path / "conf" / "goal" / "fast.yaml").exists()
    wrong = run("sintra", "init", "--force")
    assert (wrong.returncode, wrong.stdout) == (2, "")


@pytest.mark.parametrize("args", [("init", "a", "b"), ("init", "x=y")])
def test_mistakes(run, args):
    done = run("sintra", *args)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
