"""Tiny real models and a project folder of its own for each test; nothing of ours is mocked."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "models"))
os.environ["OMP_NUM_THREADS"] = "1"
if worker := os.environ.get(
    "PYTEST_XDIST_WORKER", ""
):  # each with what it starts on a core of its own
    CORES = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {CORES[int(worker.removeprefix("gw")) % len(CORES)]})
os.environ["DO_NOT_TRACK"] = "1"
COMPENSATED = (
    "probe=quick",
    "planner=ladder",
    "planner.types=[Q8_0,Q4_K_M,Q2_K]",
    "model.check=false",  # tests/stages/test_conversion.py
)
QUICK = (
    *COMPENSATED,
    "planner.rounding=nearest",
)  # in half the time, where a test isn't about rounding


def make_llama(folder: Path, hidden: int = 256, layers: int = 2, seed: int = 0) -> Path:
    """A Llama with random weights and fable's tokenizer."""
    import make
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 2048,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": layers,
    }
    heads = {
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads))
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data *= 3  # so that quantization does visible damage
    shutil.copy(ROOT / "models" / "fable" / "tokenizer.model", folder)
    make.save(model, folder, [])
    return folder


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A two-block Llama of width 256."""
    return make_llama(tmp_path_factory.mktemp("models") / "tiny")


def make_once(tmp_path_factory, name: str, make: Callable[[Path], object]) -> Path:
    """Return a folder that the first worker to ask for it fills and the others wait for."""
    import filelock

    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent
    folder, done = base / f"once-{name}", base / f"once-{name}.done"
    with filelock.FileLock(base / f"once-{name}.lock"):
        if not done.exists():
            shutil.rmtree(folder, ignore_errors=True)
            make(folder)
            done.touch()
    return folder


@pytest.fixture(scope="session")
def toolchain(tmp_path_factory) -> Path:
    """A cache that holds the converter and nothing else: pip downloads it once for all tests."""
    from sintra.build.run import run_step
    from sintra.build.step import Step
    from sintra.stages.tools import toolchain_params
    from sintra.store.store import Store

    def make(folder: Path) -> None:
        run_step(Step("toolchain", "llama.cpp", toolchain_params()), Store(folder))

    return make_once(tmp_path_factory, "toolchain", make)


class Project:
    """A folder like a clone of this repository, with a cache of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def env(self, **more: str) -> dict[str, str]:
        quiet = {
            "HF_HUB_OFFLINE": "0",
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_TOKEN": "",
        }
        return {**os.environ, **quiet, **more}

    def age_cache(self, seconds: float = 7200.0) -> None:
        """Date entries and blobs back, so that no study seems to be at work on them."""
        for path in (*self.root.glob("cache/ac/*/*"), *self.root.glob("cache/cas/*/*")):
            then = path.stat().st_mtime - seconds
            os.utime(path, (then, then))

    def doit(self, *args: str, **env: str) -> subprocess.CompletedProcess[str]:
        """Run doit to its end."""
        command = [sys.executable, "-m", "doit", *args]
        return subprocess.run(
            command, cwd=self.root, env=self.env(**env), capture_output=True, text=True, timeout=600
        )

    def start(self, *args: str) -> subprocess.Popen[bytes]:
        """Start doit in a process group of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "doit", *args],
            cwd=self.root,
            env=self.env(),
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def result(self) -> dict:
        """The latest result.json; without outputs/latest (no study has had a winner) the newest."""
        import json

        path = self.root / "outputs" / "latest" / "result.json"
        if not path.exists():
            path = max(self.root.glob("outputs/*/result.json"), key=lambda p: p.stat().st_mtime)
        return json.loads(path.read_text())

    def built(self, done: subprocess.CompletedProcess[str]) -> list[str]:
        """Names of the steps that a run built."""
        return [line.split()[1] for line in done.stderr.splitlines() if line.startswith("built ")]


def lay_down(root: Path) -> None:
    """The files of a project. Unlike a user's, its models are judged on the bundled stories where a
    test says nothing else: a model of random weights would write noise, slowly.
    """
    for name in ("dodo.py", "models"):
        (root / name).symlink_to(ROOT / name)
    (root / "conf").mkdir()
    for path in (ROOT / "conf").iterdir():
        (root / "conf" / path.name).symlink_to(path)
    main = root / "conf" / "config.yaml"
    text = main.read_text()
    assert "texts: auto" in text
    main.unlink()
    main.write_text(text.replace("texts: auto", "texts: stories"))


def make_project(root: Path, cache: Path) -> Project:
    """A fresh project with a copy of a cache."""
    root.mkdir()
    lay_down(root)
    shutil.copytree(cache, root / "cache")
    return Project(root)


def copy_of_study(tmp_path_factory, cache: Path, name: str, *args: str) -> Project:
    """A worker's own copy of a project in which one study has ended well."""

    def make(folder: Path) -> None:
        done = make_project(folder, cache).doit("optimize", *args)
        assert done.returncode == 0, done.stderr

    first = make_once(tmp_path_factory, name, make)
    mine = tmp_path_factory.mktemp(name) / "project"
    shutil.copytree(first, mine, symlinks=True)
    return Project(mine)


KEPT = ("toolchain", "fetch", "convert", "curvature", "baseline")


def beginning_of_study(tmp_path_factory, toolchain: Path, name: str, model: object) -> Path:
    """Return a cache with what every quick study of a model begins with: the converter, its GGUF
    file, its curvature and its baselines; made once for all tests.
    """
    from sintra.store.store import Store

    def make(folder: Path) -> None:
        project = make_project(folder.with_name(f"{folder.name}-project"), toolchain)
        words = ("hardware=laptop", f"model={model}", *QUICK, "goal.max_kld=5")
        done = project.doit("optimize", *words)
        assert done.returncode == 0, done.stderr
        store, blobs = Store(project.root / "cache"), set()
        for record in list(store.read_entries()):
            if record["stage"] in KEPT:
                blobs |= {file.sha256 for file in store.lookup(record["key"]).files}
            else:
                (store.root / "ac" / record["key"][:2] / f"{record['key']}.json").unlink()
        for path in (store.root / "cas").glob("*/*"):
            if path.name not in blobs:
                path.unlink()
        folder.mkdir()
        for part in ("ac", "cas"):
            shutil.move(store.root / part, folder / part)
        shutil.rmtree(project.root)

    return make_once(tmp_path_factory, name, make)


@pytest.fixture(scope="session")
def converted(tmp_path_factory, toolchain, tiny) -> Path:
    """A cache with the beginning of a quick study of the tiny model."""
    return beginning_of_study(tmp_path_factory, toolchain, "converted", tiny)


@pytest.fixture(scope="session")
def converted_fable(tmp_path_factory, toolchain) -> Path:
    """A cache with the beginning of a quick study of fable_mini."""
    return beginning_of_study(tmp_path_factory, toolchain, "converted-fable", "fable_mini")


@pytest.fixture(scope="session")
def studied(tmp_path_factory, converted, tiny) -> Project:
    """A project in which one quick study of the tiny model has ended well; its cache may be copied
    by make_project.
    """
    args = ("hardware=jetson_nano", f"model={tiny}", *QUICK)
    return copy_of_study(tmp_path_factory, converted, "studied", *args)


@pytest.fixture(scope="module")
def browser():
    """Debian's chromium, or what CHROMIUM names."""
    from playwright.sync_api import sync_playwright

    path = (
        os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    )
    if not path:
        pytest.skip("no chromium here (apt-get install chromium): the pages were not opened")
    with sync_playwright() as kit:
        made = kit.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield made
        made.close()


@pytest.fixture
def project(tmp_path, converted) -> Project:
    """A project for one test."""
    return make_project(tmp_path / "project", converted)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, converted_fable) -> Project:
    """A project with a study of fable_mini that has met its goal; for tests that add files to its
    outputs and change none.

    SINTRA_TEST_FINISHED names another project's folder, whose latest result is taken instead.
    """
    if given := os.environ.get("SINTRA_TEST_FINISHED"):
        return Project(Path(given).resolve())
    args = ("hardware=raspberry_pi_5", "model=fable_mini", *QUICK)
    return copy_of_study(tmp_path_factory, converted_fable, "finished", *args)
