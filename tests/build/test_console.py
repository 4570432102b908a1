"""What a run says: a live line on a terminal, plain lines elsewhere, JSON, nothing; and the table
in 80 columns.
"""

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest
from conftest import QUICK, ROOT, make_project

from sintra.build import console
from sintra.build.console import format_seconds, with_percent
from sintra.core.recipe import Recipe
from sintra.study.variant_names import step_titles
from sintra.study.workspace import open_workspace

RUN = """
import sys, time
from pathlib import Path
from sintra.build.console import Console
log = Path(sys.argv[1])
log.write_text("block 1 of 9, 80 s left\\n")
console = Console()
console.expected_steps = 4
with console.show_step("curvature:tiny", 500.0):
    console.expect_log("curvature:tiny", log)
    time.sleep(0.8)
    console.say("built   something else  0.1 s")
    time.sleep(0.8)
console.say("failed  at last")
"""


def on_a_terminal(tmp_path, **env):
    """What a terminal of 80 columns is sent."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "log")],
        cwd=ROOT,
        stderr=theirs,
        stdout=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "80", **env},
    )
    os.close(theirs)
    found = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # the terminal is gone with its last user
            break
        if not part:
            break
        found += part
    process.wait()
    os.close(ours)
    return found.decode()


def test_live_line_shows_what_the_worker_says(tmp_path):
    text = on_a_terminal(tmp_path)
    assert "[1/4] curvature:tiny: " in text
    assert "of about 8 min, 11 %: block 1 of 9, 80 s left" in text
    assert "built   something else  0.1 s" in text
    assert "\x1b[31mfailed  at last" in text
    last = text.replace("\r\n", "\n").split("failed")[0].rsplit("\r", 1)[-1]
    assert "curvature" not in last, "the live line is taken away"


def test_no_color_is_heeded(tmp_path):
    assert "\x1b[31m" not in on_a_terminal(tmp_path, NO_COLOR="1")


def test_no_terminal_no_escapes(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tmp_path / "log")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stderr == "built   something else  0.1 s\nfailed  at last\n"


def test_a_step_that_takes_long_has_a_line_every_five_minutes(capsys, monkeypatch, tmp_path):
    """On no terminal; the clock is turned forward."""
    log = tmp_path / "log"
    log.write_text("block 1 of 9\n")
    run = console.Console()
    step = console.RunningStep(None, start=0.0, log_path=log)
    run.running["curvature:tiny"] = step
    for now in (299.0, 301.0, 302.0, 599.0, 602.0):
        monkeypatch.setattr(console.time, "monotonic", lambda now=now: now)
        run._remind()
    assert capsys.readouterr().err.splitlines() == [
        "running curvature:tiny: 5 min, 11 %: block 1 of 9",
        "running curvature:tiny: 10 min, 11 %: block 1 of 9",
    ]


def test_steps_on_a_terminal_are_counted_and_in_words(monkeypatch):
    run = console.Console()
    run.expected_steps, run.finished_steps = 15, 3
    run.title_steps(
        {"quantize:tiny-all-Q3_K": "Quantize: Q3_K uniform", "a:b": "Refine: " + "x" * 90}
    )
    name = "quantize:tiny-all-Q3_K"
    assert run.step_line("built", name, 105.94) == f"built   {name}  105.9 s", "logs keep names"
    monkeypatch.setattr(console.Console, "live", True)
    line = run.step_line("built", name, 105.94)
    assert line.split() == ["[", "3/15]", "Quantize:", "Q3_K", "uniform", "1:46"]
    for key in (name, "a:b"):
        assert len(run.step_line("built", key, 3725)) == 79
    assert [console.clock(s) for s in (0.4, 59.6, 3725)] == ["0:00", "1:00", "1:02:05"]


def test_what_a_step_is_called(tmp_path):
    """By what is done and the variant's own name; by the model where it is of no variant."""
    graph = open_workspace(ROOT, ["hardware=laptop", f"store.path={tmp_path}"]).graph()
    mix = Recipe("Q8_0", tensors=((".*", "Q3_K"),), rounding="compensated")
    names = {mix: "Q3_K uniform", Recipe("Q4_K_M"): "llama.cpp Q4_K_M"}
    measured = graph.variant(mix, "search").quality
    steps = [graph.convert(), graph.quantize(mix), graph.quantize(Recipe("Q4_K_M")), measured]
    titles = step_titles(steps, "fable", names)
    assert list(titles.values()) == [
        "Convert to 16 bits: fable",
        "Quantize: Q3_K uniform",
        "Quantize: llama.cpp Q4_K_M",
        "Measure quality: Q3_K uniform, search text",
    ]


def test_percent_where_a_worker_counts():
    assert with_percent("layer 4 of 8") == "50 %: layer 4 of 8"
    assert with_percent("3 of 0") == "3 of 0"
    assert with_percent("loading") == "loading"


def test_durations():
    assert [format_seconds(s) for s in (7.6, 119, 6000)] == ["8 s", "2 min", "1.7 h"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, converted, tiny):
    project = make_project(tmp_path_factory.mktemp("console") / "project", converted)
    options = ("optimize", "hardware=laptop", f"model={tiny}", *QUICK)
    return project, options, project.doit(*options, "progress=json")


def test_json_is_json(runs):
    project, _, done = runs
    events = [json.loads(line) for line in done.stderr.splitlines()]
    assert {"study", "round", "built"} <= {e["event"] for e in events}
    assert next(e["steps"] for e in events if e["event"] == "round") > 5
    assert all(e["seconds"] >= 0 for e in events if e["event"] == "built")
    assert json.loads(done.stdout)["winner"] == project.result()["winner"]


def test_quiet_is_one_line(runs):
    project, options, first = runs
    done = project.doit(*options, "progress=quiet")
    assert (done.returncode, done.stderr) == (first.returncode, "")
    assert len(done.stdout.splitlines()) == 1


def test_plain_fits_eighty_columns_and_says_what_comes(runs):
    project, options, _ = runs
    done = project.doit(*options, "goal.max_kld=0.03", "max_rounds=3")
    for line in (done.stdout + done.stderr).splitlines():
        assert len(line) <= 80, line
    intro = done.stderr.splitlines()
    assert re.fullmatch(r"Sintra \S+ \| tiny, [\d.]+ M parameters \| .+", intro[0])
    heads = [line.split()[0] for line in intro if line[:1].isalpha()]
    assert heads[1:6] == ["Goal", "Limits", "Text", "Expected", "Disk"]
    assert "the longest study of tiny here" in " ".join(done.stderr.split())
    assert not re.search("[0-9a-f]{8}", done.stdout.replace(project.result()["study"], ""))
    rows = done.stdout.splitlines()
    assert rows[1].split() == ["quant", "size", "(nats)", "top-1", "tok/s*", "MB*", "result"]
    assert rows[2].startswith("> ")
    assert sum(row.startswith("  16-bit original") for row in rows) == 1
    status = project.result()["status"].upper()
    assert [row.split()[0] for row in rows if re.match(r"[A-Z]\w+ ", row)][:4] == [
        status,
        "Model",
        "Report",
        "Next",
    ]


def test_an_unknown_mode_is_refused(runs):
    project, options, _ = runs
    done = project.doit(*options, "progress=loud")
    assert done.returncode == 2
    assert (
        done.stderr.strip().splitlines()[-1]
        == "sintra: progress=loud isn't known: use one of auto, plain, quiet, json"
    )
