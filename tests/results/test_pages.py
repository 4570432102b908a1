"""`doit ab` and `doit surgery` on a study with a user's own task, as docs/howto/tasks.md has it;
the pages in a real browser.
"""

import json
import re
import shutil

import pytest
from conftest import ROOT, Project

TASKS_PAGE = (ROOT / "docs" / "howto" / "tasks.md").read_text()
QUICK = (
    "model=fable_mini",
    "probe=quick",
    "model.check=false",
    "planner.types=[Q2_K,Q8_0]",
    "planner.evaluations=4",
    "probe.calibration_tokens=512",
    "planner.rounding=nearest",
    "texts.second=null",
)
PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 900}


def block(mark):
    """A block of the page, as written."""
    return re.search(rf"<!-- {mark} -->\n```\w+\n(.*?)```", TASKS_PAGE, re.S)[1]


@pytest.fixture(scope="module")
def studied(tmp_path_factory, converted_fable):
    """A project whose study has ended: the page's files and command, and a small search."""
    root = tmp_path_factory.mktemp("pages") / "project"
    root.mkdir()
    for name in ("dodo.py", "conf", "models"):
        (root / name).symlink_to(ROOT / name)
    shutil.copytree(converted_fable, root / "cache")
    (root / "errands.yaml").write_text(block("task"))
    (root / "errands.jsonl").write_text(block("data"))
    own = Project(root)
    words = block("own").replace("'", "").split()
    assert words[:2] == ["doit", "optimize"]
    done = own.doit(*words[1:], *QUICK)
    assert done.returncode in (0, 1), done.stderr
    return own, done


def test_a_users_own_task_as_written(studied):
    project, done = studied
    assert len(block("task").splitlines()) <= 10
    result = project.result()
    limits = {c["metric"]: c["limit"] for c in result["goal"]["constraints"]}
    assert limits["task:errands:retention"] == 0.5
    numbers = {m["metric"]: m for m in result["winner"]["measurements"]}
    assert numbers["task:errands:baseline_acc"]["value"] >= 0.75, (
        "the 16-bit model knows its stories"
    )
    assert numbers["task:errands:retention"]["value"] >= 0.5
    assert numbers["task:errands:acc"]["n"] == 4, "all questions decide"
    searched = [c for c in result["candidates"] if c["decided_on"] == "search" and not c["failure"]]
    assert all(
        m["n"] == 2
        for c in searched
        for m in c["measurements"]
        if m["metric"] == "task:errands:acc"
    )
    assert "task errands" in done.stdout


def test_the_same_again_asks_nothing(studied):
    project, _ = studied
    again = project.doit(*block("own").replace("'", "").split()[1:], *QUICK)
    assert project.built(again) == []


def test_ab_in_the_terminal(studied):
    project, _ = studied
    one = project.doit("ab", "tokens=12", COLUMNS="90")
    assert one.returncode == 0, one.stderr
    assert re.search(r"\d of 5 answers identical; mean KLD 0\.\d+ nats", one.stdout)
    assert max(map(len, one.stdout.splitlines())) <= 100
    again = project.doit("ab", "tokens=12", COLUMNS="90")
    assert again.stdout == one.stdout
    assert "build" not in again.stderr, "the same prompts again cost nothing"
    given = project.doit("ab", "prompt=Nora had two plums.", "tokens=8", "chat=true")
    assert "of 1 answers identical" in given.stdout
    (project.root / "prompts.jsonl").write_text(
        '{"prompt": "Nora had"}\n{"prompt": "One morning"}\n'
    )
    assert (
        "of 2 answers identical" in project.doit("ab", "prompts=prompts.jsonl", "tokens=8").stdout
    )


def test_a_model_beside_itself(studied):
    """A file with the winner's bytes parts where the winner does; the original never does."""
    project, _ = studied
    shutil.copyfile(project.root / "outputs" / "latest" / "model.gguf", project.root / "own.gguf")
    winner, file = (
        project.doit("ab", "tokens=12", *more).stdout for more in ([], ["file=own.gguf"])
    )
    assert winner == file
    base = next(r for r in records(project) if r["stage"] == "convert")
    shutil.copyfile(blob(project, base), project.root / "original.gguf")
    same = project.doit("ab", "tokens=12", "file=original.gguf").stdout
    assert "5 of 5 answers identical; mean KLD 0.00000 nats" in same


def blob(project, record):
    """Where a record's GGUF lies."""
    sha = next(f["sha256"] for f in record["files"] if f["path"] == "model.gguf")
    return project.root / "cache" / "cas" / sha[:2] / sha


def records(project):
    return [json.loads(p.read_text()) for p in (project.root / "cache" / "ac").rglob("*.json")]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["ab", "promt=x"], "did you mean 'prompt'"),
        (["ab", "prompt=x", "prompts=y"], "either"),
        (["ab", "prompts=gone.txt"], "no file 'gone.txt'"),
        (["ab", "tokens=many"], "not a number of tokens"),
        (["ab", "tokens=4001"], "the model's context is 512"),
        (["ab", "file=gone.gguf"], "no file 'gone.gguf'"),
        (["ab", "study=gone"], "holds no result"),
        (["surgery", "studdy=x"], "did you mean 'study'"),
    ],
)
def test_mistakes(studied, args, says):
    done = studied[0].doit(*args)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()[-1:]) == 1


def opened(browser, path, size=DESK, scheme="light", shot=None):
    """A page without network and what it complained about."""
    context = browser.new_context(viewport=size, color_scheme=scheme, offline=True)
    page, trouble = context.new_page(), []
    page.on("console", lambda m: trouble.append(m.text))
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith("file:") else None)
    page.goto(path.resolve().as_uri())
    if shot:
        page.screenshot(path=shot, full_page=True)
    assert trouble == []
    return page


CONTRAST = """() => {
  const lum = c => { const v = c.map(x => x / 255)
    .map(x => x <= .03928 ? x / 12.92 : ((x + .055) / 1.055) ** 2.4);
    return .2126 * v[0] + .7152 * v[1] + .0722 * v[2]; };
  const rgb = s => (s.match(/[\\d.]+/g) || []).map(Number);
  const behind = e => { for (; e; e = e.parentElement) {
    const c = rgb(getComputedStyle(e).backgroundColor);
    if (c.length === 3 || c[3] > 0) return c.slice(0, 3); } return [255, 255, 255]; };
  const low = [];
  for (const e of document.querySelectorAll('body *')) {
    const words = [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
    if (!words || ['title', 'desc'].includes(e.tagName)) continue;
    const svg = e.tagName === 'text';
    const cell = svg && e.parentElement.tagName === 'g'
      && e.parentElement.querySelector('rect.cell');
    const fore = rgb(svg ? getComputedStyle(e).fill : getComputedStyle(e).color).slice(0, 3);
    const back = cell ? rgb(getComputedStyle(cell).fill)
      : behind(svg ? e.ownerSVGElement.parentElement : e);
    const [a, b] = [lum(fore), lum(back)].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5)
      low.push(e.tagName + ': ' + e.textContent.slice(0, 40) + ' ' + fore + ' on ' + back);
  }
  return low;
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_ab_page(studied, browser, scheme):
    project, _ = studied
    low = next(r for r in records(project) if r["stage"] == "quantize" and "all-Q2_K" in r["step"])
    shutil.copyfile(blob(project, low), project.root / "low.gguf")
    done = project.doit("ab", "tokens=24", "file=low.gguf")
    said = re.search(r"(\d) of 5 answers identical", done.stdout)[1]
    page = opened(browser, project.root / "outputs" / "latest" / "ab.html", scheme=scheme)
    assert f"{said} of 5 answers are identical" in page.inner_text("main")
    assert page.locator("section").count() == 5
    assert int(said) < 5, "two bits a weight are too few for the same answers"
    assert page.locator("section:has(mark)").count() == 5 - int(said), (
        "the place where they part is marked"
    )
    parted = page.locator("section:has(mark)").first
    left, right = (parted.locator(".side").nth(i) for i in (0, 1))
    before = [s.locator("span:not(.after)").all_text_contents() for s in (left, right)]
    assert before[0] == before[1], "up to the mark both say the same"
    assert (
        left.locator("span.after").first.text_content()
        != right.locator("span.after").first.text_content()
    )
    assert "nats" in left.locator("span").first.get_attribute("title")
    assert page.evaluate(CONTRAST) == []
    small = opened(browser, project.root / "outputs" / "latest" / "ab.html", PHONE, scheme)
    assert small.evaluate("document.documentElement.scrollWidth <= innerWidth")
    boxes = [small.locator("section").first.locator(".side").nth(i).bounding_box() for i in (0, 1)]
    assert boxes[1]["y"] >= boxes[0]["y"] + boxes[0]["height"], "one below the other on a phone"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_surgery_page(studied, browser, scheme):
    project, _ = studied
    done = project.doit("surgery")
    assert done.returncode == 0, done.stderr
    path = project.root / "outputs" / "latest" / "surgery.html"
    page = opened(browser, path, scheme=scheme)
    layout = layout_of(project)
    cells = page.locator("section").first.locator("svg g").all()
    said = [c.locator("title").text_content() for c in cells]
    assert sorted(s.split(":")[0] for s in said) == sorted(
        n for n, _, _, shape in layout if len(shape) > 1
    )
    for name, kind, size, shape in layout:
        if len(shape) > 1:
            assert any(s.startswith(f"{name}: {kind}, ") and f" {size} bytes" in s for s in said)
    texts = page.locator("section").first.locator("svg g text.in.small").all_text_contents()
    assert all("bits" in t for t in texts)
    if "most of the predicted quality loss" in done.stdout:
        shares = [float(t.split(", ")[1].removesuffix("%")) for t in texts]
        assert sum(shares) == pytest.approx(100, abs=2)
    assert page.locator("svg").first.get_attribute("aria-labelledby") == "t1 d1"
    assert page.locator("svg title#t1").text_content().startswith("Winner")
    assert page.evaluate(CONTRAST) == []
    small = opened(browser, path, PHONE, scheme)
    assert small.evaluate("document.documentElement.scrollWidth <= innerWidth"), (
        "only the picture scrolls sideways"
    )


def layout_of(project):
    digest = project.result()["winner"]["artifact"]["sha256"]
    made = next(
        r
        for r in records(project)
        if r["stage"] in ("quantize", "assemble") and digest in json.dumps(r["files"])
    )
    sha = next(f["sha256"] for f in made["files"] if f["path"] == "layout.json")
    return json.loads((project.root / "cache" / "cas" / sha[:2] / sha).read_text())["tensors"]


@pytest.mark.parametrize(
    ("cut", "words", "gone"),
    [({"drop": [1]}, "block 1", 7), ({"no_attention": [1]}, "the attention of block 1", 4)],
)
def test_what_is_left_out_is_drawn_and_priced(project, tiny, cut, words, gone):
    whole = {"type": "Q4_K_M", "tensors": [[".*", "Q4_K"]]}
    (project.root / "two.yaml").write_text(json.dumps({"recipes": [whole, {**whole, **cut}]}))
    run = (
        "optimize",
        "hardware=laptop",
        f"model={tiny}",
        "probe=quick",
        "model.check=false",
        "planner=replay",
        "planner.replay=two.yaml",
    )
    done = project.doit(*run, "goal=small", "goal.max_kld=50")
    assert done.returncode == 0, done.stderr
    result = project.result()
    assert cut.items() <= result["winner"]["recipe"].items(), "the smaller one wins"
    said = project.doit("surgery")
    assert said.returncode == 0, said.stderr
    numbers = (
        rf"without {words}: ([\d.]+) nats on the search text against ([\d.]+) .*: ([\d.-]+) more"
    )
    without, with_it, more = map(float, re.search(numbers, said.stdout).groups())
    assert more == pytest.approx(without - with_it, abs=1e-5)
    html = (project.root / "outputs" / "latest" / "surgery.html").read_text()
    assert html.count(">dropped</text>") == gone, "each matrix that is left out"
    assert html.count('class="cell"') == 14 - gone + 2, (
        "the blocks' others, the embedding and the output"
    )
    assert f"Left out: {words}." in html
    assert "measured no sensitivities" in html, "a replay knows none"
    assert html.count("<svg") == 1, "it made no stock preset"


def test_what_comes_from_outside_is_escaped():
    from sintra.results.pages.ab_page import render_comparison

    answer = {"prompt": "<b>", "original": ["<i>"], "variant": ["&"], "parted": 0, "kld": [0.2]}
    html = render_comparison({"tokens": 1, "answers": [answer]}, "<m>", "o", "v")
    assert "&lt;b&gt;" in html
    assert not re.search("<(b|i|m)>", html)
