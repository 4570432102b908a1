"""`doit dashboard` in a real browser: a study begun, watched, cancelled, finished, read and talked
to; and who may ask.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from browsing import DESK, PHONE, serious, shot, sideways
from conftest import make_project

from sintra.core.errors import UserError
from sintra.results.dashboard import runs
from sintra.results.dashboard.access import AccessGuard, is_loopback
from sintra.results.dashboard.progress import Progress
from sintra.results.dashboard.studies import Studies
from sintra.results.pages.flow import draw_flow
from sintra.study import running
from sintra.study.workspace import open_workspace

MORE = (
    "planner.types=[Q8_0,Q2_K] texts.second=null probe.calibration_tokens=512 "
    "planner.rounding=nearest"
)
LONG = 400_000  # ms


class Dashboard:
    """One that runs, by its process and address."""

    def __init__(self, project, *args, **env):
        command = [sys.executable, "-m", "doit", "dashboard", "--port", "0", *args]
        given = {
            k: v for k, v in project.env(**env).items() if not k.startswith("PYTEST")
        }  # NiceGUI's own tests look for it
        self.process = subprocess.Popen(
            command,
            cwd=project.root,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.line = self.process.stdout.readline()
        found = re.search(r"http://\S+", self.line)
        assert found, self.process.stderr.read()
        self.url = found[0].rstrip("/")
        port = int(re.search(r":(\d+)", self.url.removeprefix("http://"))[1])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.1)
        raise AssertionError("the dashboard doesn't listen")

    def stop(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.communicate(timeout=60)


@pytest.fixture(scope="module")
def project(tmp_path_factory, toolchain, tiny):
    own = make_project(tmp_path_factory.mktemp("dashboard") / "project", toolchain)
    shutil.copytree(tiny, own.root / "mine")
    return own


@pytest.fixture(scope="module")
def dashboard(project):
    made = Dashboard(project)
    yield made
    made.stop()


@pytest.fixture(scope="module")
def page(browser, dashboard):
    """A page that only this machine may be asked by, and that must not complain."""
    made = browser.new_context(viewport=DESK).new_page()
    made.set_default_timeout(LONG)
    trouble = []
    made.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda e: trouble.append(str(e)))
    made.on("request", lambda r: trouble.append(r.url) if "127.0.0.1" not in r.url else None)
    yield made
    assert trouble == []


def looked_at(browser, url, name, ready):
    """A page at both widths in both schemes: no serious finding, nothing wider than the screen."""
    for size in (PHONE, DESK):
        for scheme in ("light", "dark"):
            page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
            page.goto(url)
            page.wait_for_selector(ready)
            shot(page, f"{name}-{size['width']}-{scheme}")
            assert serious(page) == [], (name, size, scheme)
            assert not sideways(page), (name, size, scheme)
            page.context.close()


def filled(page, dashboard, project, **fields):
    """The form as a person fills it in."""
    page.goto(f"{dashboard.url}/new")
    given = {"Model": str(project.root / "mine"), "More options": MORE, **fields}
    page.get_by_label("Hardware").select_option("raspberry_pi_5")
    page.get_by_label("Planner").select_option("ladder")
    page.get_by_label("Effort").select_option("quick")
    for label, text in given.items():
        page.get_by_label(label).fill(text)


def test_a_form_says_what_is_wrong(page, dashboard, project, browser):
    page.goto(f"{dashboard.url}/new")
    page.get_by_role("button", name="Start").click()
    alert = page.get_by_role("alert")
    alert.get_by_text("choose the hardware").wait_for()
    filled(page, dashboard, project, **{"Mean KL divergence": "none"})
    alert.get_by_text("'none' is not a number above 0").wait_for()
    page.get_by_label("Mean KL divergence").fill("50")
    page.get_by_label("More options").fill("planer.types=[Q2_K]")
    alert.get_by_text("did you mean").wait_for()
    page.get_by_label("More options").fill("probe.run_code=true")
    alert.get_by_text("the command line says so").wait_for()
    page.get_by_label("More options").fill(MORE)
    page.get_by_text("doit optimize hardware=raspberry_pi_5 model=mine").wait_for()
    assert page.locator("[role=alert]").inner_text() == ""
    assert not (project.root / "cache" / "studies").exists(), "nothing has been started"
    page.get_by_role("button", name="Dry run").click()
    page.get_by_text("The dry run").wait_for()
    steps = page.locator("tbody th").all_text_contents()
    assert "convert:mine" in steps
    assert (
        page.locator("tbody tr", has_text="convert:mine").locator("td").first.inner_text()
        == "build"
    )
    looked_at(browser, f"{dashboard.url}/new", "new", "text=Dry run")


def test_a_study_as_it_happens(page, dashboard, project, browser):
    """Begun from the form, watched, cancelled, taken up again, ended."""
    filled(page, dashboard, project, **{"Mean KL divergence": "50"})
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/study/**")
    name = page.url.rsplit("/", 1)[1]
    page.locator(".badge.running").wait_for()
    bar = page.get_by_role("progressbar")
    page.wait_for_function(
        "+document.querySelector('[role=progressbar]')?.getAttribute('aria-valuenow') >= 4"
    )
    first = int(bar.get_attribute("aria-valuenow"))
    page.get_by_text("Now: ").wait_for()
    assert page.locator("svg.flow g.now").count() >= 1, "what is being built stands out"
    assert project.root.as_posix() not in page.content(), "no path is shown"
    looked_at(browser, page.url, "running", "svg.flow")
    page.get_by_role("button", name="Cancel").click()
    page.locator(".badge.stopped").wait_for()
    assert not running.alive(project.root / "cache" / "studies" / name)
    page.get_by_role("button", name="Resume").click()
    page.wait_for_function(
        f"+document.querySelector('[role=progressbar]')?.getAttribute('aria-valuenow') > {first}"
    )
    page.get_by_role("link", name="Open the report").wait_for()
    page.locator(".badge.met, .badge.unmet, .badge.undecided").first.wait_for()  # its process ends
    assert page.locator(".badge").first.inner_text() in ("met", "unmet", "undecided")
    result = project.result()
    assert result["study"] == name
    page.locator("#candidates").wait_for()
    rows = page.locator("section", has=page.locator("#candidates")).locator("tbody tr")
    assert rows.count() == len(result["candidates"])
    assert page.locator(".on-wide svg").count() == 1
    page.get_by_role("link", name="Open the report").click()
    page.locator("h2#origin").wait_for()
    assert name in page.locator("section", has=page.locator("#origin")).inner_text()
    looked_at(browser, f"{dashboard.url}/study/{name}", "ended", "#candidates")


def test_both_are_asked(page, dashboard, project):
    """The box's answers and divergence are those of `doit ab`."""
    name = project.result()["study"]
    page.goto(f"{dashboard.url}/study/{name}")
    page.get_by_role("button", name="Ask").click()
    page.get_by_text("write a prompt first").wait_for()
    page.get_by_label("Prompt").fill("Nora had two plums.")
    page.get_by_label("Tokens at most").fill("12")
    page.get_by_role("button", name="Ask").click()
    words = page.get_by_text("KL divergence along the original's")
    words.wait_for()
    shot(page, "asked")
    said = [page.locator(".pair pre").nth(i).inner_text() for i in (0, 1)]
    assert all(said)
    assert page.locator(".pair h3", has_text="a second here").count() == 2
    done = project.doit("ab", "prompt=Nora had two plums.", "tokens=12", COLUMNS="300")
    kld = re.search(r"mean KLD ([\d.]+) nats", done.stdout)[1]
    assert abs(float(re.search(r"mean ([\d.]+),", words.inner_text())[1]) - float(kld)) < 2e-5
    parted = re.search(r"parts after (\d+) tokens", done.stdout)
    assert (
        f"First difference at token {int(parted[1]) + 1}."
        if parted
        else "Both answers are the same."
    ) in words.inner_text()


def test_a_study_outlives_the_dashboard(page, project, dashboard, browser):
    """Begun by a dashboard that ends; watched by the other one. Then both are compared."""
    second = Dashboard(project)
    filled(page, second, project, **{"Mean KL divergence": "40"})
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/study/**")
    name = page.url.rsplit("/", 1)[1]
    page.locator(".badge.running").wait_for()
    page.goto(f"{dashboard.url}/")
    second.stop()
    page.locator("tr", has_text=name).locator(
        ".badge.running, .badge.met, .badge.unmet"
    ).first.wait_for()
    page.locator("tr", has_text=name).locator(".badge.met, .badge.unmet").wait_for()
    assert (project.root / "outputs" / name / "report.html").is_file()
    looked_at(browser, f"{dashboard.url}/", "studies", "table")
    page.goto(f"{dashboard.url}/compare")
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.locator("table").wait_for()
    assert page.locator("thead th").all_text_contents() == ["A", "B"]
    assert page.locator("tbody tr", has_text="size").first.locator("td").count() == 2
    shot(page, "compare")
    assert serious(page) == []


def test_strangers_are_turned_away(dashboard, project):
    def status(path="/", **headers):
        try:
            return urllib.request.urlopen(
                urllib.request.Request(dashboard.url + path, headers=headers), timeout=30
            ).status
        except urllib.error.HTTPError as error:
            return error.code

    assert status() == 200
    assert status(Host="evil.example") == 403, "a name that somebody else points here"
    assert status(Origin="http://evil.example") == 403
    for path in ("/report/..%2f..%2fcache", "/report/%2e%2e", "/report/latest"):
        assert status(path) == 404, path


def test_beyond_this_machine_a_token_is_asked_for(project):
    made = Dashboard(project, "--host", "0.0.0.0", SINTRA_DASHBOARD_TOKEN="a-word-of-ours")
    try:
        plain = made.url.replace("0.0.0.0", "127.0.0.1").split("/?")[0]
        assert "token=a-word-of-ours" in made.line
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(plain, timeout=30)
        jar = urllib.request.HTTPCookieProcessor()
        opener = urllib.request.build_opener(jar)
        assert opener.open(f"{plain}/?token=a-word-of-ours", timeout=30).status == 200
        assert opener.open(f"{plain}/new", timeout=30).url == f"{plain}/new", (
            "the cookie is enough from now on"
        )
        with pytest.raises(urllib.error.HTTPError, match="403"):
            opener.open(
                urllib.request.Request(f"{plain}/", headers={"Origin": "http://evil.example"}),
                timeout=30,
            )
    finally:
        made.stop()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--port", "99999"], "not a number from 0 to 65535"),
        (["--host", "not.a.host.invalid"], "can't listen"),
    ],
)
def test_mistakes(project, args, says):
    done = project.doit("dashboard", *args)
    assert done.returncode == 2
    assert says in done.stderr


def test_a_taken_port(project):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = project.doit("dashboard", "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert "choose another with --port" in done.stderr


def test_without_the_extra(project, tmp_path):
    (tmp_path / "nicegui.py").write_text("raise ImportError('not installed')\n")
    done = project.doit("dashboard", "--port", "0", PYTHONPATH=str(tmp_path))
    assert done.returncode == 2
    assert "pip install -c constraints.txt -e '.[dashboard]'" in done.stderr


def ran(coroutine):
    """The value of a coroutine that waits for nothing; Playwright's loop runs in this thread, so
    that asyncio.run can't.
    """
    try:
        coroutine.send(None)
    except StopIteration as end:
        return end.value
    raise AssertionError("it waits for something")


def test_websockets_are_guarded_too():
    async def asked(headers, query=b""):
        heard = []

        async def app(scope, receive, send):
            heard.append("let in")

        async def send(message):
            heard.append(message["type"])

        scope = {"type": "websocket", "path": "/ws", "query_string": query, "headers": headers}
        await AccessGuard(app, "word")(scope, None, send)
        return heard

    host = (b"host", b"example.org:1")
    assert ran(asked([host])) == ["websocket.close"]
    assert ran(asked([host, (b"cookie", b"sintra=wrong")])) == ["websocket.close"]
    assert ran(asked([host, (b"cookie", b"sintra=word")])) == ["let in"]
    assert ran(asked([host, (b"cookie", b"sintra=word"), (b"origin", b"http://evil.example")])) == [
        "websocket.close"
    ]
    assert all(map(is_loopback, ("127.0.0.1", "::1", "localhost")))
    assert not any(map(is_loopback, ("0.0.0.0", "10.0.0.1", "evil.example")))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "choose the hardware"),
        ({"hardware": "laptop", "more": "optimize"}, "is not an option"),
        ({"hardware": "laptop", "more": "--db-file=x"}, "is not an option"),
        ({"hardware": "laptop", "more": "store.path=/x"}, "one cache"),
        ({"hardware": "laptop", "goal.max_kld": "-1"}, "above 0"),
        ({"hardware": "laptop", "goal.max_size_mb": "inf"}, "above 0"),
    ],
)
def test_what_a_form_may_not_say(values, says):
    with pytest.raises(UserError, match=re.escape(says)):
        runs.form_overrides(values)


def test_the_graph_as_it_stands(project):
    """By hand: a study whose first round is recorded and of which nothing is built but what the
    cache has.
    """
    name = project.result()["study"]
    studies = Studies(project.root)
    assert studies.has_study(name)
    assert not studies.has_study("../outputs")
    workspace = open_workspace(project.root, studies.read_overrides(name))
    now = Progress(workspace).snapshot()
    assert now.done == now.total
    assert now.ended
    depth = {n.stage: n.depth for n in now.stages}
    assert all(depth[a] < depth[b] for a, b in now.edges), "inputs stand to the left"
    drawn = draw_flow(now.stages, now.edges)
    assert len(drawn.nodes) == len(depth)
    assert all(n.x >= 0 and n.x + drawn.node_width <= drawn.width for n in drawn.nodes)
    held = workspace.store.folder("orders") / f"{os.getpid()}.1.json"
    gone = next(s for s in Progress(workspace).graph.convert().all() if s.stage == "convert")
    gone.forget(workspace.store)
    held.write_text(json.dumps({"step": gone.name}))
    try:
        assert Progress(
            open_workspace(project.root, studies.read_overrides(name))
        ).snapshot().building == [gone.name]
    finally:
        held.unlink()
