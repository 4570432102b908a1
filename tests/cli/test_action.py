"""The GitHub Action: linted by GitHub's schemas, and its shell steps run as by a runner."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import QUICK, ROOT, make_project

ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
WORKFLOW = ROOT / "examples" / "workflows" / "quality.yml"


@pytest.mark.parametrize(
    ("schema", "path"), [("github-actions", ROOT / "action.yml"), ("github-workflows", WORKFLOW)]
)
def test_lint(schema, path):
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        f"vendor.{schema}",
        str(path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_a_schema_cannot_see():
    steps = ACTION["runs"]["steps"]
    ids = [s["id"] for s in steps if "id" in s]
    text = (ROOT / "action.yml").read_text()
    assert set(re.findall(r"inputs\.(\w+)", text)) == set(ACTION["inputs"])
    assert set(re.findall(r"steps\.(\w+)\.", text)) <= set(ids)
    for step in (s for s in steps if "run" in s):
        assert "${{" not in step["run"], (
            "an input in a script could run code: it comes as a variable"
        )
        assert (
            subprocess.run(["bash", "-n"], input=step["run"], text=True, check=False).returncode
            == 0
        )
    asked = yaml.safe_load(WORKFLOW.read_text())["jobs"]["quality"]["steps"][1]
    assert set(asked["with"]) <= set(ACTION["inputs"])
    assert set(re.findall(r"sintra\.outputs\.(\w+)", WORKFLOW.read_text())) <= set(
        ACTION["outputs"]
    )


def test_actions_of_others_are_pinned():
    """By commit, since a tag can be moved; the version that it was stands beside it."""
    for path in (ROOT / "action.yml", *(ROOT / "examples" / "workflows").glob("*.yml")):
        used = re.findall(r"uses:[ ]*(\S+)(.*)", path.read_text())
        assert used
        for action, rest in used:
            if not action.startswith("OWNER/sintra@"):
                assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), f"{path.name}: {action}"
                assert re.fullmatch(r" # v\d+\.\d+\.\d+", rest), f"{path.name}: {action}{rest}"


class Runner:
    """What a runner does with shell steps: expressions, variables, a file for outputs, one for the
    summary.
    """

    def __init__(self, folder: Path, temp: Path, **inputs: str) -> None:
        self.folder, self.temp = folder, temp
        given = {k: v["default"] for k, v in ACTION["inputs"].items()} | inputs
        self.known = {f"inputs.{k}": v for k, v in given.items()} | {
            "github.action_path": str(ROOT),
            "runner.os": "Linux",
        }
        self.summary = temp / "summary.md"
        self.log = ""

    def fill(self, text):
        return re.sub(r"\$\{\{ *([\w.-]+) *\}\}", lambda m: self.known.get(m[1], ""), str(text))

    def step(self, step):
        """Run one; outputs are read back as a runner reads them."""
        output = self.temp / "output"
        output.write_text("")
        env = {k: self.fill(v) for k, v in step.get("env", {}).items()}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        env |= {
            "GITHUB_OUTPUT": str(output),
            "GITHUB_STEP_SUMMARY": str(self.summary),
            "PATH": path,
            "PIP_DRY_RUN": "1",
            "PIP_NO_DEPS": "1",
            "PIP_NO_BUILD_ISOLATION": "0",
            "PIP_NO_INDEX": "1",
        }
        where = self.folder / self.fill(step.get("working-directory", "."))
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=where,
            text=True,
            env=os.environ | env,
            capture_output=True,
            timeout=900,
            check=False,
        )
        self.log += done.stdout + done.stderr
        for name, mark, block, value in re.findall(
            r"^(\w+)(?:<<(.+)\n((?:.*\n)*?)\2$|=(.*)$)", output.read_text(), re.M
        ):
            self.known[f"steps.{step['id']}.outputs.{name}"] = block.rstrip("\n") if mark else value
        return done.returncode

    def run(self, *names):
        """The shell steps in order, until one fails."""
        for step in (
            s for s in ACTION["runs"]["steps"] if "run" in s and (not names or s["id"] in names)
        ):
            if code := self.step(step):
                return code
        return 0

    def output(self, name):
        """An output of the action."""
        return self.fill(ACTION["outputs"][name]["value"])


@pytest.fixture(scope="module")
def project(tmp_path_factory, studied):
    return make_project(tmp_path_factory.mktemp("action") / "project", studied.root / "cache")


def runner(project, tiny, tmp_path, *more, **inputs):
    lines = "\n".join([*QUICK, *more])
    return Runner(
        project.root, tmp_path, model=str(tiny), hardware="jetson_nano", options=lines, **inputs
    )


def test_a_study_on_a_runner(project, tiny, tmp_path):
    job = runner(project, tiny, tmp_path)
    assert job.run() == 0, job.log
    result = json.loads(Path(job.output("result")).read_text())
    assert job.output("status") == result["status"] == "pass"
    assert job.output("sha256") == result["winner"]["artifact"]["sha256"]
    assert Path(job.output("path")).stat().st_size == int(job.output("bytes"))
    table = job.summary.read_text()
    assert f"### {result['study']}: pass" in table
    assert f"| {job.output('winner')} | {int(job.output('bytes')) / 1e6:.2f} |" in table
    paths = job.known["steps.key.outputs.paths"].splitlines()
    assert str(project.root / "cache" / "cas") in paths
    assert job.known["steps.key.outputs.study"] == result["study"]

    # what the runner's cache would bring back is enough for a run that builds nothing
    other = runner(project, tiny, tmp_path, "goal.max_kld=5")
    assert other.run("key") == 0
    assert other.known["steps.key.outputs.base"] == job.known["steps.key.outputs.base"], (
        "the store is shared"
    )
    assert other.known["steps.key.outputs.study"] != result["study"]
    kept = tmp_path / "restored"
    for path in map(Path, paths):
        if path.exists():
            shutil.copytree(path, kept / path.name) if path.is_dir() else shutil.copy(
                path, kept / path.name
            )
    again = runner(project, tiny, tmp_path, f"store.path={kept}")
    assert again.run("key", "optimize") == 0
    assert "0 steps built" in again.log

    # a pull request that makes the model worse
    before = json.loads(json.dumps(result))
    for found in before["winner"]["measurements"]:
        found |= (
            {"value": found["value"] / 100, "stderr": 0.0} if found["metric"] == "kld_mean" else {}
        )
    (tmp_path / "before.json").write_text(json.dumps(before))
    worse = runner(project, tiny, tmp_path, against=str(tmp_path / "before.json"))
    assert worse.run("key", "optimize", "verdict") == 1
    assert "::error title=Sintra::quality has fallen" in worse.log
    same = runner(project, tiny, tmp_path, against=job.output("result"))
    assert same.run("key", "optimize", "verdict") == 0


def test_limits_that_do_not_hold_fail_the_job(project, tiny, tmp_path):
    job = runner(project, tiny, tmp_path, "goal.max_size_mb=0.1")
    assert job.run() == 1
    assert job.output("status") in ("fail", "impossible")
    assert "::error title=Sintra::" in job.log
    assert job.known["steps.optimize.outputs.verdict"] in job.summary.read_text()


def test_a_mistake_is_an_annotation(project, tiny, tmp_path):
    job = runner(project, tiny, tmp_path, "goal.max_kdl=1")
    assert job.run("key") == 2
    assert "::error title=Sintra::unknown option 'goal.max_kdl'" in job.log
