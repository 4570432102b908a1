"""`doit COMMAND --help`: every command has it, nothing is started, a mistake is one line."""

import pytest
from conftest import ROOT

from sintra.cli import manual
from sintra.cli.commands import exports, registry
from sintra.core.errors import UserError


@pytest.mark.parametrize("name", [*registry.DOCS, *exports.names()])
def test_every_command_says_what_it_does_within_80_columns(name, capsys):
    manual.show(ROOT, [name])
    said = capsys.readouterr().out
    assert said.startswith(f"doit {name}\n")
    assert max(map(len, said.splitlines())) <= 80
    words = " ".join(said.split())
    assert " ".join(registry.DOCS.get(name, "").split()) in words
    for task in registry.tasks(ROOT, [], None):
        if task.name == name:
            assert all(f"--{p['long']}" in words and p["help"] in words for p in task.params)


def test_a_study_is_shown_its_choices(capsys):
    manual.show(ROOT, ["optimize"])
    said = capsys.readouterr().out
    assert "raspberry_pi_5" in said
    assert "goal=         balanced, fast, quality, small" in said


def test_an_export_is_shown_its_own_options(capsys):
    manual.show(ROOT, ["export_hub"])
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
        manual.show(ROOT, ["sweeep"])
