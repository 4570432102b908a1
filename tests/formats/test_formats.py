"""GPTQ and AWQ beside GGUF: made, read back, measured on the same tokens, delivered, reloaded."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT

from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.core.artifact import Artifact, Failure
from sintra.core.canonical import canonical
from sintra.core.errors import Infeasible, Transient, UserError
from sintra.core.recipe import Recipe, variant_slug
from sintra.core.stage import Context, tool_version
from sintra.core.types import Hardware
from sintra.formats.checkpoint import packed
from sintra.formats.runtime.call import call_in_python
from sintra.formats.runtime.environments import ENVIRONMENTS, environment_params, locked_python
from sintra.planning.other_formats import propose_other_formats, unsupported_format_lines
from sintra.store.store import Store
from sintra.study.workspace import open_workspace

SMALL = (
    "probe=quick",
    "planner=ladder",
    "probe.calibration_tokens=1024",
    "compress.group_size=64",
    "texts.second=null",
)


@pytest.fixture(scope="session")
def environments(tmp_path_factory):
    """A function: the cache that holds a format's environment, made once for all test processes;
    skips where pip can't.
    """
    if not os.environ.get("SINTRA_TEST_GPTQ"):
        pytest.skip("six minutes with pip's: SINTRA_TEST_GPTQ=1 runs the tests of GPTQ and AWQ")
    base = tmp_path_factory.getbasetemp()
    cache = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "environments"

    def made(name: str) -> Path:
        store = Store(cache)
        step = Step("environment", name, environment_params(name, "auto"))
        with store.lock(f"environment-{name}"):
            try:
                run_step(step, store)
            except Transient as error:
                pytest.skip(
                    f"the extra sintra[{name}] isn't installed, and an environment for it can't "
                    f"be made: {error}"
                )
        assert isinstance(step.outcome(store), Artifact), step.outcome(store)
        return cache

    return made


def context(tmp_path, **params):
    """A context for code that runs without a store."""
    (tmp_path / "out").mkdir(exist_ok=True)
    return Context(params, {}, tmp_path / "out", {}, tmp_path / "cache" / "downloads" / "key", 1)


def test_recipes_of_ggufs_are_what_they_were():
    data = {
        "type": "Q4_K_M",
        "importance": True,
        "drop": [1],
        "tensors": [["a", "Q8_0"]],
        "rounding": "nearest",
        "kv": "f16",
    }
    assert canonical(Recipe.of(data).as_json()) == canonical(data)
    assert Recipe.of(data).format == "gguf"
    other = Recipe("w4g128", format="gptq")
    assert Recipe.of(json.loads(json.dumps(other.as_json()))) == other
    assert variant_slug(other) == "gptq-w4g128"


def test_a_study_of_ggufs_is_the_study_it_was(project, tiny):
    plain = open_workspace(project.root, [f"model={tiny}"])
    named = open_workspace(project.root, [f"model={tiny}", "formats=[gguf]"])
    more = open_workspace(project.root, [f"model={tiny}", "formats=[gguf,gptq]"])
    assert plain.study.id == named.study.id != more.study.id


def test_a_device_says_what_it_can_run(project, tiny):
    asked = ["formats=[gguf,gptq,awq]", f"model={tiny}"]
    pi = open_workspace(project.root, [*asked, "hardware=raspberry_pi_5"]).study
    assert propose_other_formats(pi) == []
    assert [line.split(":")[0] for line in unsupported_format_lines(pi)] == [
        "gptq is not tried",
        "awq is not tried",
    ]
    laptop = open_workspace(project.root, [*asked, "hardware=laptop"]).study
    assert [variant_slug(p.recipe) for p in propose_other_formats(laptop)] == [
        "gptq-w4g128",
        "awq-w4g128",
    ]
    assert unsupported_format_lines(laptop) == []


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("formats=[gguf,wanda]", "no gain"),
        ("formats=[gguf,gptk]", "did you mean 'gptq'"),
        ("compress.group_size=100", "use 32, 64 or 128"),
        ("compress.bits=3", "use 4 or 8"),
        ("compress.python=python3", "use auto"),
        ("compress.group=64", "compress.group_size"),
    ],
)
def test_mistakes_are_named(project, option, says):
    with pytest.raises(UserError, match=says.replace("[", r"\[")):
        open_workspace(project.root, [option])


def test_a_device_that_runs_none_of_them(project):
    with pytest.raises(UserError, match="raspberry_pi_4 runs none"):
        open_workspace(project.root, ["hardware=raspberry_pi_4", "formats=[awq]"])


def write_packed(folder: Path, source: Path, bits: int = 4, leave: str = "") -> None:
    """A checkpoint with the headers of a packed one: zeros of the right shapes."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir()
    found = {"model.embed_tokens.weight": torch.zeros(2048, 256, dtype=torch.float16)}
    for module, (rows, columns) in packed.linear_shapes(source).items():
        if module.endswith(leave or "nothing"):
            found[f"{module}.weight"] = torch.zeros(rows, columns, dtype=torch.float16)
        else:
            found[f"{module}.weight_packed"] = torch.zeros(
                rows, columns * bits // 32, dtype=torch.int32
            )
    save_file(found, folder / "model.safetensors")
    weights = {"num_bits": 4, "group_size": 64}
    config = {
        "quantization_config": {
            "quant_method": "compressed-tensors",
            "config_groups": {"g": {"weights": weights}},
        }
    }
    (folder / "config.json").write_text(json.dumps(config))


def test_what_was_packed_is_read_back(tmp_path, tiny):
    write_packed(tmp_path / "good", tiny)
    packed.check_packed(tiny, tmp_path / "good", 4, 64)
    with pytest.raises(Infeasible, match="asked for 4 bits in groups of 128"):
        packed.check_packed(tiny, tmp_path / "good", 4, 128)
    write_packed(tmp_path / "partly", tiny, leave="1.mlp.down_proj")
    with pytest.raises(Infeasible, match=r"1\.mlp\.down_proj was not packed"):
        packed.check_packed(tiny, tmp_path / "partly", 4, 64)
    write_packed(tmp_path / "wide", tiny, bits=8)
    with pytest.raises(Infeasible, match="x 4 bits"):
        packed.check_packed(tiny, tmp_path / "wide", 4, 64)
    assert packed.first_indivisible(tiny, 64) is None
    assert packed.first_indivisible(tiny, 96)


def test_an_old_checkpoint_says_what_it_is(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    assert packed.read_quantization(tmp_path) == {}
    (tmp_path / "quantize_config.json").write_text(
        '{"bits": 4, "group_size": 128, "desc_act": false}'
    )
    assert packed.read_quantization(tmp_path) == {"method": "gptq", "bits": 4, "group": 128}


def too_much(given: Context) -> None:
    """Called in another process by the test below."""
    np.ones(given.params["bytes"], dtype=np.uint8)


def refusing(given: Context) -> None:
    """Likewise."""
    raise Infeasible("refused", f"not with {given.params['word']}")


@pytest.mark.skipif(sys.platform != "linux", reason="memory limits are Linux's")
def test_another_python_raises_here_and_keeps_to_its_memory(tmp_path, monkeypatch):
    folders = (str(ROOT / "tests"), str(Path(__file__).parent))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    with pytest.raises(Infeasible, match="not with this") as caught:
        call_in_python(context(tmp_path, word="this"), sys.executable, "test_formats:refusing")
    assert caught.value.kind == "refused"
    call_in_python(context(tmp_path, bytes=2**20), sys.executable, "test_formats:too_much", 2**31)
    with pytest.raises(Infeasible, match="2 GiB that it may have") as caught:
        call_in_python(
            context(tmp_path, bytes=2**32), sys.executable, "test_formats:too_much", 2**31
        )
    assert caught.value.kind == "out_of_memory"


@pytest.mark.parametrize("name", list(ENVIRONMENTS))
def test_a_missing_extra_is_a_result_that_says_what_to_install(tmp_path, name):
    if tool_version(ENVIRONMENTS[name].root) != "none":
        pytest.skip(f"the extra sintra[{name}] is installed here")
    step, store = Step("environment", name, environment_params(name, "here")), Store(tmp_path)
    run_step(step, store)
    outcome = step.outcome(store)
    assert isinstance(outcome, Failure)
    assert f"pip install 'sintra[{name}]'" in outcome.message


def test_a_fault_of_a_branch_is_tried_again(project, tiny):
    args = (
        "hardware=laptop",
        f"model={tiny}",
        *SMALL,
        "planner.types=[Q8_0]",
        "formats=[gguf,gptq]",
        "max_rounds=1",
        "goal.max_kld=100",
    )
    offline = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "", "PIP_CONFIG_FILE": os.devnull}
    done = project.doit("optimize", *args, **offline)
    assert done.returncode == 0, done.stderr
    assert "fault: pip can't install llmcompressor" in " ".join(done.stdout.split())
    assert project.result()["status"] == "pass"
    again = project.doit("optimize", *args, **offline)
    assert "failed" in again.stderr, "what may pass is not kept as a result"
    assert "environment:compressor" in again.stderr


@pytest.fixture(scope="session")
def three(tmp_path_factory, toolchain, environments, tiny):
    """A project in which a study of three formats has ended."""
    from conftest import Project, lay_down

    cache = environments("compressor")
    root = tmp_path_factory.mktemp("formats") / "project"
    root.mkdir()
    lay_down(root)
    shutil.copytree(toolchain, root / "cache")
    shutil.copytree(
        cache,
        root / "cache",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("envs", "orders", "tmp"),
    )
    (root / "cache" / "envs").symlink_to(cache / "envs")
    project = Project(root)
    args = (
        "hardware=laptop",
        f"model={tiny}",
        *SMALL,
        "planner.types=[Q4_K_M]",
        "max_rounds=1",
        "formats=[gguf,gptq,awq]",
        "goal.max_kld=100",
    )
    return project, args, project.doit("optimize", *args)


def test_three_formats_one_command_one_table(three):
    project, args, done = three
    assert done.returncode == 0, done.stderr
    result = project.result()
    assert [f["format"] for f in result["formats"]] == ["gguf", "gptq", "awq"]
    assert {f["status"] for f in result["formats"]} == {"pass"}
    for row in result["formats"][1:]:
        assert row["agreement"]["agree_tokens"] == 1
        assert row["agreement"]["agree_kld_mean"] < 1e-4
    names = {
        c["recipe"].get("format", "gguf"): c
        for c in result["candidates"]
        if c["decided_on"] == "report"
    }
    assert set(names) == {"gguf", "gptq", "awq"}
    counts = {
        name: next(m["n"] for m in c["measurements"] if m["metric"] == "kld_mean")
        for name, c in names.items()
    }
    assert len(set(counts.values())) == 1, "the same tokens"
    for name in ("gptq", "awq"):
        rows = {m["metric"]: m for m in names[name]["measurements"]}
        assert all(
            "transformers" in rows[m]["protocol"]
            for m in ("kld_mean", "tg_tps", "ram_peak_bytes", "device_tg_tps")
        )
        assert 0 < rows["kld_mean"]["value"] < 1
    again = project.doit("optimize", *args)
    assert again.returncode == 0
    assert project.built(again) == []
    assert project.result() == result


def test_what_lies_in_outputs_is_what_the_manifest_says(three):
    project, _, _ = three
    out = project.root / "outputs" / "latest"
    manifest = json.loads((out / "manifest.json").read_text())["files"]
    from sintra.store.files import hash_file

    drawn = ("manifest.json", "report.html")
    assert {
        str(p.relative_to(out)) for p in out.rglob("*") if p.is_file() and p.name not in drawn
    } == set(manifest)
    assert all(hash_file(out / name) == digest for name, digest in manifest.items())
    for candidate in project.result()["candidates"]:
        name = candidate["recipe"].get("format", "gguf")
        if name != "gguf":
            folder = next(p for p in (out / name / "model", out / "model") if p.is_dir())
            assert sum(p.stat().st_size for p in folder.iterdir()) == candidate["artifact"]["bytes"]


RELOAD = """
import sys
from pathlib import Path
import numpy as np
from sintra.probes.divergence import Baseline, score_model
from sintra.formats.runtime.torch import TorchModel
base = Baseline.read(Path(sys.argv[1]))
_, kld = score_model(TorchModel(Path(sys.argv[2]), 1), base, 0, "", lambda text: None)
print("KLD", kld.mean())
"""


@pytest.mark.parametrize("name", ["gptq", "awq"])
def test_it_reloads_from_outputs_and_reproduces_its_divergence(three, tmp_path, name):
    project, args, _ = three
    workspace = open_workspace(project.root, list(args))
    baseline = workspace.graph().baseline("report").outcome(workspace.store)
    workspace.store.lay_out(baseline, tmp_path)
    python = next((project.root / "cache" / "envs").glob("*/bin/python"))
    command = [
        str(python),
        "-c",
        RELOAD,
        str(tmp_path),
        str(project.root / "outputs" / "latest" / name / "model"),
    ]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert done.returncode == 0, done.stderr
    said = next(c for c in project.result()["candidates"] if c["recipe"].get("format") == name)
    value = next(m["value"] for m in said["measurements"] if m["metric"] == "kld_mean")
    assert float(done.stdout.split("KLD")[1]) == pytest.approx(value, rel=1e-4)


def test_the_lock_names_everything_that_ran(three):
    project, args, _ = three
    workspace = open_workspace(project.root, list(args))
    lock = workspace.store.read_json(
        workspace.graph().environment("compressor").outcome(workspace.store), "lock.json"
    )
    wanted_version = ENVIRONMENTS["compressor"].requirements[0].partition("==")[2]
    assert lock["llmcompressor"] == wanted_version
    assert {"torch", "transformers", "compressed-tensors"} <= set(lock)
    key = workspace.graph().quantize(Recipe("w4g64", format="gptq")).action(workspace.store)
    assert str(project.root) not in canonical(key)


@pytest.mark.skipif(
    not os.environ.get("SINTRA_TEST_GPTQ"), reason="a minute of pip: SINTRA_TEST_GPTQ=1 runs it"
)
def test_an_environment_that_is_gone_is_built_again_from_its_lock(environments, tmp_path):
    store = Store(environments("compressor"))
    lock = store.read_json(
        Step("environment", "compressor", environment_params("compressor", "auto")).outcome(store),
        "lock.json",
    )
    given = context(tmp_path, root="llmcompressor")
    python = locked_python(given, "compressor", lock)
    assert python.startswith(str(tmp_path))
    call_in_python(given, python, "sintra.formats.runtime.environments:write_lock")
    assert json.loads((given.out / "lock.json").read_text()) == lock


def test_estimates_of_other_runtimes_hold_the_whole_model():
    from sintra.hardware.estimate.estimate import Shape
    from sintra.hardware.estimate.runtimes import estimate_for_runtime

    shape = Shape(4_000_000, 100_000, False, 7_000_000, 8, 256, 4, 2, 64, 2048)
    device = Hardware("d", "D", "cpu", 4, "", 2**33, 2**33, 5e10, 0.6, 0.2, 0.0, 4e11)
    rows = {m.metric: m for m in estimate_for_runtime(shape, device, 512, "f16", "transformers")}
    assert rows["device_ram_bytes"].value > 4 * shape.parameters
    assert rows["device_tg_tps"].value < 1 / (shape.layers * 0.002)
    gpu = {
        m.metric: m
        for m in estimate_for_runtime(
            shape, replace(device, backend="cuda"), 512, "f16", "transformers"
        )
    }
    assert gpu["device_ram_bytes"].value < rows["device_ram_bytes"].value


@pytest.mark.skipif(
    not os.environ.get("SINTRA_TEST_GPTQ"),
    reason="two minutes more: SINTRA_TEST_GPTQ=1 runs GPTQModel's tests",
)
def test_gptqmodel_makes_and_reads_auto_gptqs_format(project, tiny, environments, tmp_path):
    cache = environments("gptq")
    shutil.copytree(
        cache,
        project.root / "cache",
        dirs_exist_ok=True,
        ignore=shutil.ignore_patterns("envs", "orders", "tmp"),
    )
    (project.root / "cache" / "envs").symlink_to(cache / "envs")
    args = (
        "hardware=laptop",
        f"model={tiny}",
        *SMALL,
        "max_rounds=1",
        "formats=[gptq_native]",
        "goal.max_kld=100",
    )
    done = project.doit("optimize", *args)
    assert done.returncode == 0, done.stdout + done.stderr
    first, out = project.result(), project.root / "outputs" / "latest" / "model"
    old = shutil.copytree(out, tmp_path / "auto_gptq")
    config = json.loads((old / "config.json").read_text())
    del config["quantization_config"]
    (old / "config.json").unlink()
    (old / "config.json").write_text(json.dumps(config))
    assert (old / "quantize_config.json").is_file()
    done = project.doit("optimize", *args, f"compress.checkpoint={old}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not [s for s in project.built(done) if s.startswith("agreement")]
    values = [
        {m["metric"]: m["value"] for m in r["winner"]["measurements"]}["kld_mean"]
        for r in (first, project.result())
    ]
    assert values[0] == pytest.approx(values[1], rel=1e-6)


def test_a_checkpoint_needs_its_format(project, tiny):
    with pytest.raises(UserError, match="formats="):
        open_workspace(project.root, [f"compress.checkpoint={tiny}"])
    workspace = open_workspace(
        project.root, [f"model={tiny}", f"compress.checkpoint={tiny}", "formats=[gptq_native]"]
    )
    step = workspace.graph().quantize(propose_other_formats(workspace.study)[0].recipe)
    for above in step.all():
        run_step(above, workspace.store)
    outcome = step.outcome(workspace.store)
    assert isinstance(outcome, Failure)
    assert "holds no GPTQ checkpoint" in outcome.message
