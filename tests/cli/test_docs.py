"""The docs are in step with the code, the site builds without a warning, and every command in them
runs.
"""

import json
import re
import shlex
import subprocess
import sys

import pytest
from conftest import QUICK, ROOT, make_project

from sintra.cli.docs import messages, reference
from sintra.core import metrics

# Commands that are not run here, and why. Each must be found in the docs.
NOT_RUN = {
    "model=owner/name": "needs the hub",
    "model=./SmolLM2": "downloads 98 MB; tests/cli/test_real_model.py runs such a study",
    "model=./my-model": "stands for a folder of the reader's",
    "planner.model=NAME": "needs an LLM's endpoint; tests/planning/test_llm_studies.py runs one",
    "formats=[gguf,gptq,awq]": "installs llmcompressor; tests/formats/test_formats.py runs it",
    "probe.tasks=[fable]": "asks 500 questions; tests/probes/test_tasks.py runs the probe",
    "listeners=": (
        "needs a webhook, MLflow or the example plugin; tests/integrations/test_listeners.py, "
        "tests/core/test_plugins.py"
    ),
    "executor=": "needs a cluster; tests/build/test_executors.py starts small ones",
    "device=ssh": "needs a board; tests/hardware/test_ssh.py has one on loopback",
    "store.remote=": "needs a shared store; tests/study/test_sharing.py has one on loopback",
    "doit dashboard": "serves until it is stopped; tests/results/test_dashboard.py",
    "./mine.yaml": (
        "stands for a file of the reader's; docs/howto/tasks.md has an example, which "
        "tests/results/test_pages.py runs"
    ),
    "./errands.yaml": "run by tests/results/test_pages.py as it stands in docs/howto/tasks.md",
}
SMALL = "model=fable_mini"
STUDIES = ("optimize", "sweep", "compare", "plan")


def told():
    """(file, command) of every line of the docs that is meant to be typed, but for the two that
    install.
    """
    pages = ("commands.md", "costs.md", "index.md", "status.md", "trust.md", "device.md")
    folders = ("explain", "howto", "tutorials")
    files = [
        ROOT / "README.md",
        *(ROOT / "docs" / p for p in pages),
        *(page for name in folders for page in sorted((ROOT / "docs" / name).glob("*.md"))),
    ]
    typed = r"(?:\$ )?((?:[A-Z_]+=\S+ )?(?:doit|python -m sintra) .+)$"
    for path in files:
        text = path.read_text()
        blocks = re.findall(r"^```(\w*)\n(.*?)^```", text, re.M | re.S)
        fenced = [block for language, block in blocks if language in ("", "sh", "console")]
        lines = re.findall(r"^ {4,}" + typed, text, re.M) + [
            x for block in fenced for x in re.findall("^" + typed, block, re.M)
        ]
        for line in lines:
            yield path.name, shlex.split(line, comments=True)


COMMANDS = sorted(
    {tuple(words): name for name, words in told()}.items(),
    key=lambda c: ("ab" in c[0] or "surgery" in c[0], c),
)


def test_reference_is_in_step():
    for name, text in reference.reference_pages(ROOT).items():
        path = ROOT / reference.FOLDER / name
        assert path.exists()
        assert path.read_text() == text, f"{name} has fallen behind: run `doit docs`"


def test_site_builds_without_a_warning(tmp_path):
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--strict",
        "--site-dir",
        str(tmp_path / "site"),
    ]
    done = subprocess.run(
        command,
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={"NO_MKDOCS_2_WARNING": "1", "PATH": ""},
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    page = (tmp_path / "site" / "index.html").read_text()
    assert "https://fonts" not in page


def test_every_error_says_something():
    found = messages.read_messages(ROOT / "sintra")
    assert len(found) > 100
    assert {m.kind for m in found} == set(messages.KINDS)
    assert [
        m
        for m in found
        if len(re.sub(r"\{[^}]*\}", "", m.text).split()) < 2 and not m.text.startswith("{")
    ] == []


def test_what_is_not_run_is_in_the_docs():
    for mark in NOT_RUN:
        assert any(mark in " ".join(words) for words, _ in COMMANDS), mark


@pytest.fixture(scope="module")
def reader(tmp_path_factory, converted_fable):
    """A project that has had one study, and files that the docs speak of."""
    project = make_project(tmp_path_factory.mktemp("docs") / "project", converted_fable)
    (project.root / "prompts.txt").write_text("Nora had two plums.\nPell went home.\n")
    done = project.doit("optimize", "hardware=jetson_nano", SMALL, *QUICK)
    assert done.returncode in (0, 1), done.stderr
    return project


def test_every_metric_is_explained(reader):
    result = reader.result()
    named = {m["metric"] for c in result["candidates"] for m in c["measurements"]}
    assert len(named) > 12
    assert [n for n in named if metrics.find_metric(n) is None] == []


@pytest.mark.parametrize(
    ("words", "name"), COMMANDS, ids=lambda v: v if isinstance(v, str) else " ".join(v)[:60]
)
def test_commands_run(reader, words, name):
    line = " ".join(words)
    if any(mark in line for mark in NOT_RUN):
        return
    args = [*words[1:]] if words[0] == "doit" else None
    if args is None:
        pytest.skip("a Hydra application: tests/study/test_sweep.py runs it")
    args = [
        a.replace(
            "STUDY", json.loads((reader.root / "outputs/latest/result.json").read_text())["study"]
        )
        for a in args
    ]
    if set(args) & set(STUDIES):
        args += [
            o
            for o in (SMALL, *QUICK)
            if o.partition("=")[0] not in {a.partition("=")[0] for a in args}
        ]
    done = reader.doit(*args)
    assert done.returncode in (0, 1), f"{name}: {line}\n{done.stderr[-2000:]}"
    assert "Traceback" not in done.stderr


def test_the_glossary_has_each_word_once_in_order():
    rows = re.findall(
        r"^\| ([^|]+?) \| ([^|]+) \|$", (ROOT / "docs" / "glossary.md").read_text(), re.M
    )
    words = [word for word, _ in rows if word not in ("word", "---")]
    assert len(words) > 40
    assert words == sorted(set(words), key=str.casefold)


def test_every_page_is_in_the_navigation():
    nav = (ROOT / "mkdocs.yml").read_text().partition("nav:")[2]
    pages = {p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md")}
    assert set(re.findall(r"[\w/-]+\.md$", nav, re.M)) == pages


def test_costs_have_no_number_that_was_not_measured_or_calculated_elsewhere():
    docs = ROOT / "docs"
    known = " ".join(
        ((docs / "benchmarks.md").read_text() + (docs / "scale.md").read_text()).split()
    )
    tables = [line for line in (docs / "costs.md").read_text().splitlines() if "d, 2026-" in line]
    tables += [
        line for line in (docs / "costs.md").read_text().splitlines() if "| calculated |" in line
    ]
    numbers = {n for line in tables for n in re.findall(r"\d[\d.]* (?:s|h|GB|MB)\b", line)}
    assert len(numbers) > 12
    assert sorted(n for n in numbers if n not in known) == []
