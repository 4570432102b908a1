"""`doit dashboard` in a real browser: a study begun, watched, cancelled, finished, read and talked
to; and what its form takes. Who may ask at all: test_dashboard_access.py.
"""

import json
import os
import re
import shutil
import socket

import pytest
from browsing import DESK, PHONE, serious, shot, sideways
from conftest import ROOT, make_project
from dashboards import Dashboard

from sintra.config import compose
from sintra.core.errors import UserError
from sintra.results.dashboard import runs
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
    """A page with the token that asks this machine alone, and that must not complain."""
    made = browser.new_context(viewport=DESK).new_page()
    made.set_default_timeout(LONG)
    trouble = []
    made.on("console", lambda m: trouble.append(m.text) if m.type == "error" else None)
    made.on("pageerror", lambda e: trouble.append(str(e)))
    made.on("request", lambda r: trouble.append(r.url) if "127.0.0.1" not in r.url else None)
    dashboard.enter(made)
    yield made
    assert trouble == []


def looked_at(browser, dashboard, path, name, ready):
    """A page at both widths in both schemes: no serious finding, nothing wider than the screen."""
    for size in (PHONE, DESK):
        for scheme in ("light", "dark"):
            page = browser.new_context(viewport=size, color_scheme=scheme).new_page()
            dashboard.enter(page, path)
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


def test_a_first_study_at_a_click(browser, toolchain, tmp_path):
    """A project without studies offers one, of the bundled model."""
    own = make_project(tmp_path / "project", toolchain)
    made = Dashboard(own)
    try:
        looked_at(browser, made, "/", "first", "text=Start a first study")
        page = browser.new_context(viewport=DESK).new_page()
        made.enter(page)
        page.get_by_role("button", name="Start a first study").click()
        page.wait_for_url("**/study/**", timeout=LONG)
        name = page.url.rsplit("/", 1)[1]
        page.locator(".badge.running").wait_for(timeout=LONG)
        page.get_by_role("button", name="Cancel").click()
        page.locator(".badge.stopped").wait_for(timeout=LONG)
        page.goto(f"{made.url}/")
        page.locator("tr", has_text=name).wait_for()
        assert not page.get_by_role("button", name="Start a first study").is_visible()
    finally:
        made.stop()
    assert Studies(own.root).read_overrides(name) == ["hardware=jetson_nano", "effort=quick"]


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
    alert.get_by_text("give it to `doit optimize` on the command line").wait_for()
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
    looked_at(browser, dashboard, "/new", "new", "text=Dry run")


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
    looked_at(browser, dashboard, f"/study/{name}", "running", "svg.flow")
    page.get_by_role("button", name="Cancel").click()
    page.locator(".badge.stopped").wait_for()
    assert not running.is_running(project.root / "cache" / "studies" / name)
    page.get_by_role("button", name="Resume").click()
    page.wait_for_function(
        f"+document.querySelector('[role=progressbar]')?.getAttribute('aria-valuenow') > {first}"
    )
    page.get_by_role("link", name="Open the report").wait_for()
    page.locator(
        ".badge.pass, .badge.fail, .badge.inconclusive"
    ).first.wait_for()  # its process ends
    assert page.locator(".badge").first.inner_text() in ("pass", "fail", "inconclusive")
    result = project.result()
    assert result["study"] == name
    page.locator("#candidates").wait_for()
    rows = page.locator("section", has=page.locator("#candidates")).locator("tbody tr")
    assert rows.count() == len(result["candidates"])
    assert page.locator(".on-wide svg").count() == 1
    page.get_by_role("link", name="Open the report").click()
    page.locator("h2#origin").wait_for()
    assert name in page.locator("section", has=page.locator("#origin")).inner_text()
    looked_at(browser, dashboard, f"/study/{name}", "ended", "#candidates")


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
    second.enter(page)
    filled(page, second, project, **{"Mean KL divergence": "40"})
    page.get_by_role("button", name="Start").click()
    page.wait_for_url("**/study/**")
    name = page.url.rsplit("/", 1)[1]
    page.locator(".badge.running").wait_for()
    page.goto(f"{dashboard.url}/")
    second.stop()
    page.locator("tr", has_text=name).locator(
        ".badge.running, .badge.pass, .badge.fail"
    ).first.wait_for()
    page.locator("tr", has_text=name).locator(".badge.pass, .badge.fail").wait_for()
    assert (project.root / "outputs" / name / "report.html").is_file()
    looked_at(browser, dashboard, "/", "studies", "table")
    page.goto(f"{dashboard.url}/compare")
    for box in page.get_by_role("checkbox").all():
        box.check()
    page.locator("table").wait_for()
    assert page.locator("thead th").all_text_contents() == ["A", "B"]
    assert page.locator("tbody tr", has_text="size").first.locator("td").count() == 2
    shot(page, "compare")
    assert serious(page) == []


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


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hardware": ""}, "choose the hardware"),
        ({"more": "optimize"}, "is not an option"),
        ({"more": "--db-file=x"}, "is not an option"),
        ({"more": "store.path=/x"}, "store.path can't be set here"),
        ({"more": "planner.evaluatons=3"}, "did you mean 'planner.evaluations'?"),
        ({"more": "seed=${oc.env:HOME}"}, "expected a number, a word or a list"),
        ({"more": "planner.types=[../x]"}, "expected a number, a word or a list"),
        ({"more": "texts.second=notes.txt"}, "expected null"),
        ({"goal.max_kld": "-1"}, "above 0"),
        ({"goal.max_size_mb": "inf"}, "above 0"),
        ({"hardware": "/etc/secret.yaml"}, "no hardware is called"),
        ({"planner": "replay"}, "no planner is called"),
        ({"model": "${oc.env:HOME}"}, "is not a name, a hub model or a folder"),
        ({"model": "fable\nmodel.trust_remote_code=true"}, "is not a name"),
    ],
)
def test_what_a_form_may_not_say(values, says):
    with pytest.raises(UserError, match=re.escape(says)) as raised:
        runs.form_overrides(ROOT, {"hardware": "laptop", **values})
    assert "\n" not in str(raised.value)


CODE = {
    "store.remote": "file:///tmp/x",
    "planner.base_url": "http://evil.example/v1",
    "planner.replay": "x.json",
    "planner.max_usd": "1000",
    "executor.cluster": "local",
    "executor.sbatch": "{}",
    "device.host": "evil.example",
    "device.python": "sh",
    "model.trust_remote_code": "true",
    "model.source": "x",
    "probe.run_code": "true",
    "probe.tasks": "[x]",
    "compress.python": "x",
    "compress.checkpoint": "x",
    "extra": "[x]",
    "listeners": "[webhook]",
    "mlflow.uri": "x",
    "store": "local",
    "device": "ssh",
    "executor": "ray",
    "texts": "x",
    "hardware": "x",
}


def test_a_form_takes_only_what_is_listed():
    """Every option that isn't listed is refused, and so is one that is added tomorrow."""
    options = compose.keys() | set(compose.GROUPS)
    assert set(CODE) <= options - runs.ALLOWED
    assert compose.keys() >= runs.ALLOWED
    for key in options - runs.ALLOWED:
        with pytest.raises(UserError, match=f"^{re.escape(key)} can't be set here: "):
            runs.allowed_override(f"{key}={CODE.get(key, '1')}")
    assert [runs.allowed_override(item) for item in MORE.split()] == MORE.split()


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
