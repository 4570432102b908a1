"""The house's own rules: layers, docs in step with the code, nothing of this machine in the
repository.
"""

import ast
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess

import pytest
from conftest import ROOT

LAYERS = [
    {"errors", "types", "recipe", "canonical", "__init__", "console"},
    {
        "config",
        "options",
        "plugins",
        "store",
        "stage",
        "layout",
        "llama",
        "imatrix",
        "thinning",
        "quantizer",
        "elsewhere",
        "remote",
        "report",
        "chat",
        "source",
        "signals",
        "lazy",
        "locks",
        "layers",
        "stream",
        "rounding",
        "matrices",
        "gguf_parts",
        "presets",
        "evaluation",
        "views",
        "formats",
        "environments",
        "foreign",
        "handover",
        "hub",
        "likeness",
        "templates",
        "checkpoint",
        "divergence",
        "protocols",
        "torch_model",
        "sealed",
        "digests",
        "disk",
        "entries",
        "gguf_header",
        "model_code",
        "branches",
        "terms",
        "spawn",
        "gate",
        "bundle",
        "events",
    },
    {"history", "hardware", "judge", "planning", "allocation", "llm", "serving"},
    {"telemetry", "served", "attached"},
    {"adapters"},
    {"telling", "listening"},
    {"stages", "probes", "planners", "exports", "executors", "listeners", "boards"},
    {"graph", "node", "study", "worker", "engine", "run", "footprint", "answer"},
    {"bounds", "known", "truth"},
    {"lessons"},
    {
        "rounds",
        "result",
        "delivery",
        "validation",
        "latest",
        "steps",
        "sharing",
        "reporter",
        "forget",
        "running",
        "taskdb",
    },
    {
        "dryrun",
        "story",
        "catalogue",
        "calibration",
        "past",
        "sweep",
        "pareto",
        "recommend",
        "delivered",
        "devices",
    },
    {"exchange", "upkeep", "usage"},
    {"overview", "anatomy", "heat", "ci"},
    {"account"},
    {"briefing", "pages", "dashboard", "glossary", "messages", "reference"},
    {"exported", "commands", "manual", "tasks", "__main__", "cli"},
]
LEAVES = {
    "stages",
    "probes",
    "planners",
    "exports",
    "listeners",
    "adapters",
    "hardware",
    "executors",
}
SOURCES = sorted((ROOT / "sintra").rglob("*.py"))


def level(name):
    return next(i for i, layer in enumerate(LAYERS) if name in layer)


def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sintra":
            yield from (
                [f"{node.module}.{a.name}" for a in node.names]
                if node.module == "sintra"
                else [node.module]
            )


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_layers(path):
    own = path.relative_to(ROOT / "sintra").parts[0].removesuffix(".py")
    for name in imports(path):
        other = name.split(".")[1]
        if (name == "sintra.stages.tools" and own == "graph") or other.startswith("__"):
            continue  # the converter's pin is part of a step's parameters
        assert level(other) <= level(own), f"{path.name} imports {name} from a higher layer"
        if own in LEAVES and other == own:
            assert own == "hardware", f"siblings in {own} never import one another"


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_small_files(path):
    assert len(path.read_text().splitlines()) <= 330
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_readme_lists_every_file():
    readme = (ROOT / "README.md").read_text()
    missing = [p for p in SOURCES if p.name != "__init__.py" and p.name not in readme]
    assert missing == []
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    there = {line.rsplit("/", 1)[-1] for line in listed.splitlines()}
    assert set(re.findall(r"^ +(\w+\.py) ", readme, re.M)) <= there


def test_every_command_is_documented():
    from sintra.cli.commands.registry import DOCS
    from sintra.core import plugins

    guide = (ROOT / "docs" / "guide.md").read_text()
    exports = [
        f"export_{e.name}" for e in plugins.own_entry_points() if e.group == "sintra.exports"
    ]
    assert [n for n in [*DOCS, *exports] if n != "next" and f"doit {n}" not in guide] == []


def test_every_option_is_documented():
    from sintra.config.compose import keys, names

    guide = (ROOT / "docs" / "guide.md").read_text()
    plain = {
        k
        for k in keys()
        if not k.startswith(("hardware.", "model.name")) and not k.endswith(".name")
    }
    assert sorted(k for k in plain if f"`{k}`" not in guide) == []
    assert sorted(h for h in names(ROOT, "hardware") if f"`{h}`" not in guide) == []


def test_entry_points_load():
    for entry in importlib.metadata.distribution("sintra").entry_points:
        assert callable(entry.load()) or entry.load().name == entry.name


def test_nothing_of_a_machine_in_the_repository():
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    ).stdout
    for name in listed.split():
        path = ROOT / name
        if (
            path.suffix in (".py", ".md", ".toml", ".txt", ".yaml", ".yml", "")
            and path.is_file()
            and name != "tests/test_house.py"
        ):
            text = path.read_text(errors="ignore")
            assert not re.search(r"/root/|/home/\w+/|/work/", text), name


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda p: p.name)
def test_benches_name_what_there_is(path):
    """They are run by hand and seldom, so nothing else would notice that a name has moved."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sintra"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                assert hasattr(module, name) or importlib.util.find_spec(f"{node.module}.{name}"), (
                    f"{node.module}.{name}"
                )
