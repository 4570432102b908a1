"""What others wrote reaches no terminal as a command to it."""

import io
import json
import sys

import pytest

from sintra.build.console import Console
from sintra.build.explain import changes
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import Infeasible, Transient, UserError
from sintra.core.text import printable_line, printable_text
from sintra.store.remote.shared_entries import RemoteDataError, parse_shared_entry

EVIL = "a\x1b]52;c;cm0=\x07b\x9b2Jc\r\nd\u202ee\ud800"


def test_texts():
    assert printable_line(EVIL) == "a?]52;c;cm0=?b?2Jc  d?e?"
    assert printable_text("one\n\ttwo\x1b[2J") == "one\n\ttwo?[2J"
    assert printable_line("é 漢 🙂") == "é 漢 🙂"
    assert len(printable_line("x" * 10_000_000)) == 4000
    assert printable_line("x" * 9, 8) == "xxxxx..."


@pytest.mark.parametrize("make", [UserError, Transient, lambda text: Infeasible("refused", text)])
def test_errors_quote_others_in_one_printable_line(make):
    assert str(make(EVIL)).isprintable()
    assert str(make("plain")) == "plain"


def test_the_console(monkeypatch):
    for mode in ("plain", "json"):
        console, heard = Console(), io.StringIO()
        console.configure(mode)
        monkeypatch.setattr(sys, "stderr", heard)
        console.say(f"round 1: {EVIL}")
        monkeypatch.undo()
        lines = heard.getvalue()
        assert all(c.isprintable() or c == "\n" for c in lines)
    assert json.loads(lines)["text"].startswith("round 1: a?")


def test_a_changed_key_is_shown_in_bounds():
    (line,) = changes({"type": EVIL * 1000}, {"type": "Q4_K"})
    assert line.isprintable()
    assert len(line) < 500


def test_a_failure_of_others():
    action = {"schema": 1, "stage": "made", "params": {}, "inputs": {}}
    failure = {"kind": "refused", "message": EVIL, "log": EVIL}
    entry = {"key": sha256(canonical(action)), "action": action, "step": "s\n", "failure": failure}
    raw = json.dumps(entry).encode()
    found = parse_shared_entry(raw, entry["key"])
    assert found["step"] == "s "
    assert found["failure"]["message"].isprintable()
    assert "\x1b" not in found["failure"]["log"]
    entry["failure"]["message"] = "x" * 4001
    with pytest.raises(RemoteDataError, match="at most 4000"):
        parse_shared_entry(json.dumps(entry).encode(), entry["key"])
