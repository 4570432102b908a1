"""Telemetry: off by default, exactly what --show prints, nothing that names anybody, spooled and
dropped.
"""

import json
import time

import pytest
from conftest import QUICK, make_project
from hooks import serve

from sintra.core.events import Event, Setting
from sintra.integrations.listeners import telemetry
from sintra.integrations.listeners.telemetry import TelemetryListener

KEYS = {
    "schema",
    "day",
    "event",
    "sintra",
    "python",
    "os",
    "machine",
    "hardware",
    "author",
    "format",
    "mb",
    "rounds",
    "evaluations",
    "built",
    "cached",
    "failed",
    "seconds",
}
RESULT = {
    "study": "my-secret-model-9",
    "status": "pass",
    "model": "my-secret-model",
    "hardware": "my_board",
    "rounds": 4,
    "evaluations": 3,
    "steps": {"built": 1, "cached": 2, "failed": 0},
    "wall_s": 100.0,
    "reason": "/secret/path",
    "winner": {"author": "ladder", "recipe": {"type": "Q4_K_M"}, "artifact": {"bytes": 3_000_000}},
}


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A home without settings."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("DO_NOT_TRACK", "")
    monkeypatch.delenv(telemetry.ENDPOINT, raising=False)
    return tmp_path


@pytest.fixture
def server():
    made, stop = serve()
    yield made
    stop()


def test_off_until_turned_on(own, monkeypatch):
    assert telemetry.enabled_listeners() == set()
    telemetry.command(own, True, False, False, "")
    assert telemetry.enabled_listeners() == set(), "there is no default address"
    telemetry.command(own, True, False, False, "http://127.0.0.1:9/t")
    assert telemetry.enabled_listeners() == {"telemetry"}
    monkeypatch.setenv("DO_NOT_TRACK", "1")
    assert telemetry.enabled_listeners() == set()
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    assert telemetry.enabled_listeners() == {"telemetry"}
    telemetry.command(own, False, True, False, "")
    assert telemetry.enabled_listeners() == set()


def test_nothing_that_names_anybody():
    told = telemetry.telemetry_record("met", RESULT)
    assert set(told) == KEYS
    text = json.dumps(told)
    assert "secret" not in text
    assert "my_board" not in text
    assert (told["hardware"], told["author"], told["mb"], told["seconds"]) == (
        "other",
        "ladder",
        4,
        128,
    )
    assert (
        set(telemetry.telemetry_record("failed", {"reason": "/secret", "hardware": "laptop"}))
        == KEYS
    )
    assert telemetry.telemetry_record("failed", {"hardware": "laptop"})["hardware"] == "laptop"


def test_a_study_sends_what_show_prints(own, server, studied, tiny):
    server.answers["/t"] = [(503, {}), (200, {})]
    project = make_project(own / "project", studied.root / "cache")
    quiet = project.doit("telemetry", "--show")
    assert "telemetry is off" in quiet.stdout
    args = ("optimize", "hardware=jetson_nano", f"model={tiny}", *QUICK)
    assert project.doit(*args).returncode == 0
    assert server.got == []

    assert project.doit("telemetry", "--on", "--endpoint", f"{server.url}/t").returncode == 0
    shown = json.loads(project.doit("telemetry", "--show").stdout.split("\n", 1)[1])
    assert [set(p) for p in shown] == [KEYS]
    project.doit(*args, "goal.max_kld=0.03")
    (first,) = server.wait("/t")
    shown = waited(project, 2)
    assert shown[0] == first.json[0], "what the server refused to take waits, as --show says"
    project.doit(*args, "goal.max_kld=0.04")
    second = server.wait("/t", 2)[1]
    assert second.json[0] == first.json[0]
    assert len(second.json) == 2
    assert len(waited(project, 1)) == 1
    text = b"".join(g.body for g in server.got).decode()
    assert str(tiny) not in text
    assert "tiny" not in text
    assert {g.headers["user-agent"] for g in server.got} == {"sintra"}

    before = len(server.got)
    project.doit(*args, "goal.max_kld=0.05", DO_NOT_TRACK="1")
    assert len(server.got) == before


def waited(project, count):
    """What --show prints, once the listener is done with its file."""
    until = time.monotonic() + 60
    while True:
        shown = json.loads(project.doit("telemetry", "--show").stdout.split("\n", 1)[1])
        if len(shown) == count or time.monotonic() > until:
            return shown
        time.sleep(0.2)


def test_spooled_and_dropped(own, monkeypatch):
    telemetry.command(own, True, False, False, "http://127.0.0.1:9/t")
    listener = TelemetryListener(Setting({}, own, own))
    for _ in range(telemetry.MAX_WAITING + 5):
        listener.hear(Event("met", "s", 0.0, RESULT))
    assert len(telemetry.read_records(telemetry.queue_path())) == telemetry.MAX_WAITING
    with telemetry.waiting_records() as records:
        records[0]["day"] = "2020-01-01"
    assert len(telemetry.read_records(telemetry.queue_path())) == telemetry.MAX_WAITING - 1


@pytest.mark.parametrize(
    "args", [("--on", "--off"), ("--endpoint", "http://x"), ("--on", "--endpoint", "x")]
)
def test_mistakes(own, args, converted):
    project = make_project(own / "p", converted)
    done = project.doit("telemetry", *args)
    assert done.returncode == 2
    assert not telemetry.settings_path().exists()


def test_not_as_an_option(own, converted, tiny):
    project = make_project(own / "p", converted)
    done = project.doit(
        "optimize", "hardware=jetson_nano", f"model={tiny}", "listeners=[telemetry]"
    )
    assert done.returncode == 2
    assert "doit telemetry --on" in done.stderr
