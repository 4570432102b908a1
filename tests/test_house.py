"""The house's own rules: layers, docs in step with the code, nothing of this machine.

Figures that are no rules (sizes of folders and functions) are printed by `python -m tests.house`.
"""

import ast
import fnmatch
import importlib
import importlib.metadata
import importlib.util
import re
import subprocess

import pytest
from conftest import ROOT
from house import LAYERS, House


@pytest.fixture(scope="module")
def house():
    return House()


def test_thirteen_layers_and_nothing_else(house):
    folders = {p.name for p in (ROOT / "sintra").iterdir() if p.is_dir() and list(p.rglob("*.py"))}
    assert folders == set(LAYERS)
    assert {p.name for p in (ROOT / "sintra").glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "plugin.py",
    }


def test_no_import_of_a_higher_layer(house):
    assert house.upward() == []


def test_no_import_circle(house):
    assert house.cycles() == []


def test_siblings_of_a_plugin_group_are_reached_by_name(house):
    """stages and probes, too, but for what their own folders share (rounding, timing, ...)."""
    plugins = {entry.value.split(":")[0] for entry in entry_points()}
    for name in plugins & set(house.imports):
        folder = name.rpartition(".")[0]
        others = {o for o in house.imports[name] & plugins if o.rpartition(".")[0] == folder}
        assert not others, f"{name} imports {others}"


def test_every_module_says_what_it_is_for(house):
    assert [n for n, tree in house.tree.items() if not ast.get_docstring(tree)] == []
    assert [n for n, text in house.text.items() if "TODO" in text] == []


def test_tests_stand_in_the_same_folders():
    folders = {p.parent.name for p in (ROOT / "tests").glob("*/test_*.py")}
    assert folders <= {*LAYERS, "field"}


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_tree_for_contributors():
    page = (ROOT / "CONTRIBUTING.md").read_text()
    tree = re.search(r"## The tree\n.*?```\n(.*?)```", page, re.S)[1].splitlines()
    assert len(tree) <= 25
    names = [line.split()[0] for line in tree]
    assert [n.strip("/") for n in names if (ROOT / "sintra" / n.strip("/")).is_dir()] == list(
        LAYERS
    )
    tops = [n for line, n in zip(tree, names, strict=True) if not line.startswith(" ")]
    assert [n for n in tops if not (ROOT / n).exists()] == []


def test_every_command_is_documented():
    from sintra.cli.commands.registry import COMMANDS
    from sintra.core import plugins

    page = (ROOT / "docs" / "commands.md").read_text()
    exports = [f"export_{name}" for name in plugins.own_names("exports")]
    names = [*(command.name for command in COMMANDS), *exports]
    assert [n for n in names if not n.startswith("_") and f"doit {n}" not in page] == []


def test_every_device_is_named():
    """Options: tests/config/test_option_docs.py."""
    from sintra.config.compose import names

    page = (ROOT / "docs" / "howto" / "optimize.md").read_text()
    assert sorted(h for h in names(ROOT, "hardware") if f"`{h}`" not in page) == []


def entry_points():
    return importlib.metadata.distribution("sintra").entry_points


def test_entry_points_load():
    for entry in entry_points():
        assert callable(entry.load()) or entry.load().name == entry.name


def tracked():
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [ROOT / name for name in listed.split() if (ROOT / name).is_file()]


def test_nothing_of_a_machine_in_the_repository():
    kinds = (".py", ".md", ".toml", ".txt", ".yaml", ".yml", "")
    for path in tracked():
        if path.suffix in kinds and path.name != "test_house.py":
            assert not re.search(r"/root/|/home/\w+/|/work/", path.read_text(errors="ignore")), path


@pytest.mark.parametrize("path", sorted((ROOT / "bench").glob("*.py")), ids=lambda p: p.name)
def test_benches_name_what_there_is(path):
    """They are run by hand and seldom, so nothing else would notice that a name has moved."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("sintra"):
            module = importlib.import_module(node.module)
            for name in (alias.name for alias in node.names):
                full = f"{node.module}.{name}"
                assert hasattr(module, name) or importlib.util.find_spec(full), full


def test_no_folder_of_tests_is_passed_over(pytestconfig):
    """pytest's own norecursedirs has "build", a package of ours."""
    patterns = pytestconfig.getini("norecursedirs")
    folders = {p.parent for p in (ROOT / "tests").rglob("test_*.py")}
    passed_over = [f for f in folders if any(fnmatch.fnmatch(f.name, p) for p in patterns)]
    assert not passed_over
