"""Output that nobody reads to its end: every command ends quietly."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, lay_down


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pipes") / "project"
    root.mkdir()
    lay_down(root)
    return root


def unread(folder, *words, program=("-m", "doit"), both=False):
    """Run a command whose stdout, or stderr too, is a pipe that nobody has open any more."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        return subprocess.run(
            [sys.executable, *program, *words],
            cwd=folder,
            stdout=writer,
            stderr=writer if both else subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"},
            timeout=600,
            check=False,
        )
    finally:
        os.close(writer)


@pytest.mark.parametrize(
    "words",
    [
        ("list",),  # doit's own
        ("history", "--format", "csv"),
        ("estimate", "model=fable_mini", "hardware=laptop"),
        ("plan", "model=fable_mini", "hardware=laptop"),
        ("plan", "--help"),
    ],
    ids=" ".join,
)
def test_a_closed_pipe_ends_quietly(folder, words):
    done = unread(folder, *words)
    assert (done.returncode, done.stderr) == (0, b"")


def test_so_it_does_where_errors_go_into_the_same_pipe(folder):
    assert unread(folder, "plan", "model=fable_mini", "hardware=laptop", both=True).returncode == 0


def test_the_console_script_too(folder):
    script = ("-c", "from sintra.cli.main import main; main()")
    done = unread(folder, "help", program=script)
    assert (done.returncode, done.stderr) == (0, b"")


OTHER = """
import os, sys
from sintra.core.process import end_when_unread
end_when_unread()
reader, writer = os.pipe()
os.close(reader)
try:
    os.write(writer, b"x")
except BrokenPipeError:
    print("raised")
"""


def test_other_pipes_raise_as_before(folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", OTHER], env=env, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "raised\n", "")
