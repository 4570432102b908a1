"""Listeners hear a study's events and can neither block nor fail it."""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from conftest import QUICK, make_project
from hooks import plugin, serve

from sintra.core.errors import UserError
from sintra.core.events import Event
from sintra.integrations.listeners import webhooks
from sintra.integrations.listeners.reader import redact

TOKEN = "T0PSECRET99"
SECRET = "whsec_c2ludHJhLXRlc3RzLXNpbnRyYS10ZXN0cw=="
ALL = "listeners=[slack,discord,webhook,apprise]"
DEAF = """
import os, time
from sintra.plugin import Listener
class Hangs:
    def hear(self, event): time.sleep(1000)
    def close(self): pass
class Dies(Hangs):
    def hear(self, event): os._exit(3)
class Raises(Hangs):
    def hear(self, event): raise ValueError("at https://user:T0PSECRET99@example.org/T0PSECRET99/x")
HANGS = Listener("hangs", lambda setting: Hangs())
DIES = Listener("dies", lambda setting: Dies())
RAISES = Listener("raises", lambda setting: Raises())
"""


@pytest.fixture(scope="module")
def hooks():
    made, stop = serve()
    yield made
    stop()


@pytest.fixture(scope="module")
def env(hooks):
    port = hooks.url.rsplit(":", 1)[1]
    return {
        "SINTRA_SLACK_URL": f"{hooks.url}/slack/{TOKEN}",
        "SINTRA_DISCORD_URL": f"{hooks.url}/discord/{TOKEN}",
        "SINTRA_WEBHOOK_URL": f"{hooks.url}/json/{TOKEN}",
        "SINTRA_WEBHOOK_SECRET": SECRET,
        "SINTRA_APPRISE_URLS": f"json://127.0.0.1:{port}/apprise/{TOKEN}",
        "MLFLOW_TRACKING_URI": "",
    }


@pytest.fixture(scope="module")
def study(tmp_path_factory, studied, tiny, hooks, env):
    """A study that has been told to four webhooks; others tell the same one to other listeners."""
    project = make_project(tmp_path_factory.mktemp("heard") / "project", studied.root / "cache")

    def run(*args, **more):
        return project.doit(
            "optimize", "hardware=jetson_nano", f"model={tiny}", *QUICK, *args, **{**env, **more}
        )

    done = run(ALL)
    assert done.returncode == 0, done.stderr
    return project, run


def test_slack_as_documented(study, hooks):
    project, _ = study
    (got,) = hooks.wait(f"/slack/{TOKEN}")
    assert got.headers["content-type"] == "application/json"
    assert set(got.json) == {"text", "blocks"}
    (section,) = got.json["blocks"]
    assert section["type"] == "section"
    assert section["text"]["type"] == "mrkdwn"
    assert 1 <= len(section["fields"]) <= 10
    assert all(f["type"] == "mrkdwn" and len(f["text"]) <= 2000 for f in section["fields"])
    assert project.result()["study"] in got.json["text"]
    assert f"{project.result()['winner']['artifact']['bytes'] / 1e6:.2f} MB" in got.json["text"]


def test_discord_as_documented(study, hooks):
    (got,) = hooks.wait(f"/discord/{TOKEN}")
    assert set(got.json) == {"content", "embeds", "allowed_mentions"}
    assert got.json["allowed_mentions"] == {"parse": []}
    (embed,) = got.json["embeds"]
    assert set(embed) == {"title", "color", "fields"}
    assert 0 <= embed["color"] <= 0xFFFFFF
    assert all(f["name"] and f["value"] and isinstance(f["inline"], bool) for f in embed["fields"])


def test_signed_json_by_the_standards_own_library(study, hooks):
    from standardwebhooks import Webhook, WebhookVerificationError

    (got,) = hooks.wait(f"/json/{TOKEN}")
    said = Webhook(SECRET).verify(got.body, got.headers)
    assert said["type"] == "study.met"
    assert said["data"]["study"] == study[0].result()["study"]
    assert (
        said["data"]["winner"]["artifact"]["sha256"]
        == study[0].result()["winner"]["artifact"]["sha256"]
    )
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(got.body + b" ", got.headers)


def test_apprise_under_our_own_name(study, hooks):
    (got,) = hooks.wait(f"/apprise/{TOKEN}")
    assert got.json["type"] == "success"
    assert "pass" in got.json["title"]
    assert "apprise" not in got.body.decode().lower()


def test_told_once_and_nowhere_written(study, hooks):
    project, run = study
    for path in ("slack", "discord", "json", "apprise"):
        hooks.wait(f"/{path}/{TOKEN}")
    told = project.root / "cache" / "told"
    before = set(told.glob("*.jsonl"))
    again = run(ALL)
    assert again.returncode == 0
    assert project.built(again) == []
    assert set(told.glob("*.jsonl")) == before, "a run that changes nothing is silent"
    found = subprocess.run(
        ["grep", "-rl", TOKEN, "cache", "outputs"], cwd=project.root, capture_output=True, text=True
    )
    assert found.stdout == ""


def test_listeners_that_hang_die_or_raise(study, tmp_path):
    project, run = study
    entries = {n: f"deaf:{n.upper()}" for n in ("hangs", "dies", "raises")}
    folder = plugin(tmp_path / "deaf", "deaf", DEAF, {"listeners": entries})
    done = run("listeners=[hangs,dies,raises]", PYTHONPATH=str(folder))
    assert done.returncode == 0
    assert "listener hangs is still at work" in done.stderr
    assert "listener raises: ValueError: at https://example.org/..." in done.stderr
    assert TOKEN not in done.stderr
    assert project.result()["status"] == "pass"


def test_an_endpoint_that_never_answers_is_not_waited_for(study, hooks):
    _, run = study
    done = run("listeners=[slack]", "notify.timeout_s=60", SINTRA_SLACK_URL=f"{hooks.url}/hold")
    assert done.returncode == 0
    assert hooks.wait("/hold")
    assert not hooks.release.is_set(), "the study has ended, and the request is still open"


def test_a_study_that_breaks_off_is_told_as_failed(study, hooks):
    _, run = study
    done = run(
        "listeners=[webhook]", "seed=5", "timeout_s=0.01", SINTRA_WEBHOOK_URL=f"{hooks.url}/failed"
    )
    assert done.returncode == 1
    (got,) = hooks.wait("/failed")
    assert got.json["type"] == "study.failed"
    assert "its time limit" in got.json["data"]["reason"]


@pytest.mark.parametrize(
    ("args", "more", "said"),
    [
        (["listeners=[slak]"], {}, "did you mean 'slack'?"),
        (["listeners=[slack]"], {"SINTRA_SLACK_URL": ""}, "set SINTRA_SLACK_URL"),
        (["listeners=[webhook]"], {"SINTRA_WEBHOOK_SECRET": "whsec_!"}, "must be base64"),
        (["listeners=[slack]", "notify.on=[metal]"], {}, "did you mean 'met'?"),
        (
            ["listeners=[mlflow]", "mlflow.uri=http://me:pw@127.0.0.1:1"],
            {},
            "MLFLOW_TRACKING_PASSWORD",
        ),
    ],
)
def test_mistakes_start_nothing(study, args, more, said):
    done = study[1](*args, **more)
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


EVENT = Event("failed", "s", 0.0, {"reason": "<no & none>"})


def test_passing_faults_are_tried_again(hooks):
    hooks.answers["/again"] = [(503, {}), (429, {"Retry-After": "0"}), (200, {})]
    webhooks.post_json(f"{hooks.url}/again", b"{}", {}, 5.0, 3)
    assert len(hooks.of("/again")) == 3
    hooks.answers["/gone"] = [(404, {})]
    with pytest.raises(RuntimeError, match="answers 404"):
        webhooks.post_json(f"{hooks.url}/gone", b"{}", {}, 5.0, 3)
    assert len(hooks.of("/gone")) == 1
    with pytest.raises(RuntimeError, match="can't be reached"):
        webhooks.post_json("http://127.0.0.1:9/x", b"{}", {}, 5.0, 0)


def test_texts_are_escaped_and_cut():
    assert webhooks.slack_body(EVENT)["text"] == "s: failed\nreason: &lt;no &amp; none&gt;"
    long = Event("failed", "s" * 3000, 0.0, {"reason": "r" * 9000})
    assert len(webhooks.discord_body(long)["content"]) == 2000
    assert len(webhooks.discord_body(long)["embeds"][0]["fields"][0]["value"]) == 1024
    assert len(webhooks.slack_body(long)["text"]) == 3000


def test_redact(monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "abcdefgh")
    assert (
        redact("x http://u:p@h.example:8/a/b?c=d) abcdefgh")
        == "x http://h.example:8/...) $SOME_TOKEN"
    )


def test_check_names_the_extra(monkeypatch):
    monkeypatch.setattr(webhooks.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=re.escape("sintra[apprise]")):
        webhooks.check_apprise({})


def test_mlflow_run_in_sqlite(study):
    from mlflow import MlflowClient

    project, run = study
    assert run("listeners=[mlflow]", MLFLOW_TRACKING_URI="").returncode == 0
    path = project.root / "outputs" / "mlflow" / "mlflow.db"
    ended(path)
    client = MlflowClient(f"sqlite:///{path}")
    (logged,) = client.search_runs([client.get_experiment_by_name("sintra").experiment_id])
    result = project.result()
    assert logged.info.status == "FINISHED"
    assert logged.data.tags["sintra.study"] == result["study"]
    assert logged.data.params["goal.max_kld"] == "0.02"
    steps = client.get_metric_history(logged.info.run_id, "kld_mean")
    assert len(steps) >= 3
    assert [m.step for m in steps] == list(range(1, len(steps) + 1))
    numbers = {m["metric"]: m["value"] for m in result["winner"]["measurements"]}
    assert logged.data.metrics["winner/size_bytes"] == numbers["size_bytes"]
    assert {a.path for a in client.list_artifacts(logged.info.run_id)} >= {
        "result.json",
        "recipe.yaml",
        "rounds.json",
        "model",
    }
    version = client.get_model_version_by_alias(f"{result['model']}-jetson_nano", "champion")
    assert version.tags["sha256"] == result["winner"]["artifact"]["sha256"]
    assert version.run_id == logged.info.run_id
    got = client.download_artifacts(logged.info.run_id, "result.json")
    assert json.loads(Path(got).read_text()) == result


def ended(path):
    """Wait until the run in a database has its end."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        try:
            with sqlite3.connect(path) as base:
                if base.execute("SELECT count(*) FROM runs WHERE status = 'FINISHED'").fetchone()[
                    0
                ]:
                    return
        except sqlite3.Error:
            pass
        time.sleep(0.5)
    raise AssertionError(f"no run has ended in {path}")


SERVER = os.environ.get(
    "SINTRA_TEST_MLFLOW", ""
)  # the mlflow program of an environment with the whole of it (851 MB)


@pytest.mark.skipif(not SERVER, reason="SINTRA_TEST_MLFLOW names no mlflow with a server")
def test_mlflow_server_and_its_page(study, tmp_path):
    from mlflow import MlflowClient
    from playwright.sync_api import sync_playwright

    project, run = study
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url, quiet = (
        f"http://127.0.0.1:{port}",
        {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"},
    )
    places = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path / 'db'}",
        "--artifacts-destination",
        str(tmp_path / "files"),
    ]
    command = [
        SERVER,
        "server",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        "--workers",
        "1",
        *places,
    ]
    server = subprocess.Popen(
        command, env=os.environ | quiet, start_new_session=True, stderr=subprocess.DEVNULL
    )
    try:
        answers(port)
        assert run("listeners=[mlflow]", f"mlflow.uri={url}", "goal.max_kld=0.03").returncode == 0
        ended(tmp_path / "db")
        client = MlflowClient(url)
        (logged,) = client.search_runs([client.get_experiment_by_name("sintra").experiment_id])
        assert {a.path for a in client.list_artifacts(logged.info.run_id)} >= {
            "result.json",
            "model",
        }
        assert client.get_model_version_by_alias(
            f"{project.result()['model']}-jetson_nano", "champion"
        )
        with sync_playwright() as play:
            browser = play.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
            page = browser.new_page(viewport={"width": 1400, "height": 1000})
            page.goto(f"{url}/#/experiments/{logged.info.experiment_id}/runs/{logged.info.run_id}")
            page.get_by_text(logged.data.tags["sintra.winner"]).first.wait_for(timeout=120_000)
            browser.close()
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def answers(port):
    """Wait until somebody listens."""
    until = time.monotonic() + 240
    while time.monotonic() < until:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.5)
    raise AssertionError("no server came up")
