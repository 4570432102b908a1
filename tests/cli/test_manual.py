"""`doit COMMAND --help`: every command has it, nothing is started, a mistake is one line."""

import inspect

import pytest
from conftest import ROOT

from sintra.cli import manual
from sintra.cli.command_line import CommandLine
from sintra.cli.commands.registry import COMMANDS, all_commands
from sintra.core.errors import UserError


@pytest.mark.parametrize("command", all_commands(), ids=lambda c: c.name)
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


def test_from_the_command_line(studied):
    done = studied.doit("optimize", "hardware=nonesuch", "--help")
    assert done.returncode == 0
    assert done.stdout.startswith("doit optimize\n")
    assert "built" not in done.stderr
    wrong = studied.doit("optimise", "--help")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines() == [
        "sintra: there is no command 'optimise': did you mean 'optimize'?"
    ]


def test_unknown_names():
    with pytest.raises(UserError, match="did you mean 'sweep'"):
        manual.print_help(ROOT, "sweeep")
