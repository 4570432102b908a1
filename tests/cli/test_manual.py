"""`doit COMMAND --help`: every command has it, nothing is started, a mistake is one line."""

import inspect
import subprocess
import sys

import pytest
from conftest import QUICK, ROOT, Project, lay_down

from sintra.cli import manual
from sintra.cli.command_line import CommandLine
from sintra.cli.commands.registry import COMMANDS, all_commands
from sintra.core.errors import UserError

SHOWN = [command for command in all_commands() if command.group != "hidden"]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A project in which nothing has been done."""
    root = tmp_path_factory.mktemp("bare") / "project"
    root.mkdir()
    lay_down(root)
    return Project(root)


@pytest.mark.parametrize("command", SHOWN, ids=lambda c: c.name)
def test_every_command_says_what_it_does_within_80_columns(command, capsys):
    manual.print_help(ROOT, command.name)
    said = capsys.readouterr().out
    assert said.startswith(f"doit {command.name}\n")
    assert max(map(len, said.splitlines())) <= 80
    words = " ".join(said.split())
    assert command not in COMMANDS or command.doc in words
    assert all(f"--{o.long}" in words and o.help in words for o in command.options)


@pytest.mark.parametrize("command", [c for c in all_commands() if c.function], ids=lambda c: c.name)
def test_every_command_has_a_function_that_takes_what_it_is_given(command):
    parameters = list(inspect.signature(command.load()).parameters)
    options = [o.as_param()["name"] for o in command.options]
    words = [command.words] if command.words else []
    assert sorted(parameters[len(command.inputs) :]) == sorted([*options, *words])


@pytest.mark.parametrize(
    ("argv", "words", "group", "opens_study"),
    [
        (["optimize", "hardware=laptop", "-n", "4"], ["optimize"], None, True),
        (["gc", "--older", "30d", "--dry-run"], ["gc"], None, False),
        (["history", "--forget", "mine"], ["history"], None, False),
        (["report", "a-study"], ["report", "a-study"], None, False),
        (["why", "quantize:tiny-Q2_K"], ["why", "quantize:tiny-Q2_K"], None, True),
        (["quantize"], ["quantize"], None, True),
        (["export_ollama", "--study", "a-study"], ["export_ollama"], None, False),
        (["-n", "2", "sweep", "model=a,b"], ["sweep"], "sweep", False),
        ([], [], None, False),
    ],
)
def test_a_command_line_is_read_by_the_table(argv, words, group, opens_study):
    line = CommandLine.of(argv)
    assert (line.words, line.group_command, line.opens_study) == (words, group, opens_study)


def test_a_study_is_shown_its_choices(capsys):
    manual.print_help(ROOT, "optimize")
    said = capsys.readouterr().out
    assert "raspberry_pi_5" in said
    assert "goal=         balanced, fast, quality, small" in said


def test_an_export_is_shown_its_own_options(capsys):
    manual.print_help(ROOT, "export_hub")
    assert "license=, upload=" in capsys.readouterr().out


def test_from_the_command_line(bare):
    done = bare.doit("optimize", "hardware=nonesuch", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("doit optimize\n")
    assert "built" not in done.stderr
    british = bare.doit("optimise", "hardware=laptop", "--help")
    assert british.stdout == done.stdout
    wrong = bare.doit("optimze", "--help")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        "sintra: unknown command 'optimze': did you mean 'optimize'?"
    ]


def test_either_spelling_is_the_main_job(studied, tiny):
    british = studied.doit("optimise", "hardware=jetson_nano", f"model={tiny}", *QUICK)
    assert british.returncode == 0, british.stderr
    assert "PASS    " in british.stdout
    assert british.stdout.count(f"outputs/{studied.result()['study']}/") >= 1


def test_the_overview_shows_every_command_in_a_group_within_80_columns():
    said = manual.overview(ROOT)
    assert max(map(len, said.splitlines())) <= 80
    listed = [
        line.split()[0] for line in said.splitlines() if line.startswith("  ") and line[2] != " "
    ]
    assert sorted(listed) == sorted(c.name for c in SHOWN)
    assert listed[:3] == ["optimize", "sweep", "compare"]
    assert not any(c.name in manual.overview(ROOT / "docs").split() for c in CONTRIBUTORS)


CONTRIBUTORS = [c for c in COMMANDS if c.group == "development"]


@pytest.mark.parametrize("words", [[], ["--help"]])
def test_doit_says_what_sintra_does(bare, words):
    done = bare.doit(*words)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert "  optimize        Find the best variant" in done.stdout
    assert "  sweep " in done.stdout
    assert not any(line.split()[:1] in (["next"], ["_next"], ["resolve"]) for line in lines)


def test_a_list_has_the_commands_and_no_internal_task(bare):
    done = bare.doit("list")
    names = [line.split()[0] for line in done.stdout.splitlines()]
    assert {"optimize", "sweep", "compare", "options"} <= set(names)
    assert not [n for n in names if n.startswith("_") or ":" in n or n in ("next", "resolve")]
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_help_of_a_command_is_ours_and_of_doits_own_is_doits(bare):
    ours, theirs = bare.doit("help", "gc"), bare.doit("help", "info")
    assert ours.stdout.startswith("doit gc\n")
    assert "PURPOSE" in theirs.stdout


def test_elsewhere_doit_is_doit(tmp_path):
    (tmp_path / "dodo.py").write_text("def task_a():\n    return {'actions': ['true']}\n")
    done = subprocess.run(
        [sys.executable, "-m", "doit", "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.startswith("doit -- automation tool")


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'sweep'"):
        manual.print_help(ROOT, "sweeep")
