"""report.html: what the main job leaves for people to look at."""

import json
import re
import shlex
import shutil
import subprocess
from dataclasses import replace
from html import unescape

import pytest
from browsing import DESK, PHONE, serious, shot, sideways
from conftest import QUICK, ROOT, make_project

from sintra.results.pages.charts import log_ticks
from sintra.results.pages.command_lines import (
    optimize_command,
    public_override,
    usage_commands,
)
from sintra.results.pages.report import render_report
from sintra.results.pages.report_data import collect_report_data, read_source
from sintra.results.pages.words import (
    KLD_SCALE,
    STATUS_TEXTS,
    describe_kld,
    format_number,
    format_value,
    hide_folders,
)

PARTS = (
    "How to run it",
    "Goal and limits",
    "Quality against size",
    "Candidates",
    "Tensors",
    "Memory",
    "Heat",
    "Rounds",
    "Reproducibility",
)
LIMIT = 3_000_000


@pytest.fixture(scope="module")
def ended(tmp_path_factory, converted, tiny):
    """A project with a study that has ended: stock presets and ours, a limit that some of them
    miss, a device with heat.
    """
    own = make_project(tmp_path_factory.mktemp("report") / "project", converted)
    shutil.copytree(tiny, own.root / "mine")
    few = (*QUICK[:2], "planner.types=[Q8_0,Q2_K]", "texts.second=null")
    limits = ("goal.max_kld=50", "goal.max_size_mb=2")
    done = own.doit(
        "optimize", "hardware=raspberry_pi_5", f"model={own.root / 'mine'}", *few, *limits
    )
    assert done.returncode in (0, 1), done.stderr
    return own, done


@pytest.fixture(scope="module")
def page_file(ended):
    return (ended[0].root / "outputs" / "latest" / "report.html").resolve()


def opened(browser, path, size=DESK, scheme="light"):
    """The page offline, and what it asked for or complained of."""
    page = browser.new_context(viewport=size, color_scheme=scheme, offline=True).new_page()
    trouble = []
    page.on("console", lambda m: trouble.append(m.text))
    page.on("pageerror", lambda e: trouble.append(str(e)))
    page.on("request", lambda r: trouble.append(r.url) if not r.url.startswith("file:") else None)
    page.goto(path.as_uri())
    assert trouble == []
    return page


def test_the_main_job_writes_it(ended, page_file):
    html = page_file.read_text()
    for words in PARTS:
        assert f">{words}</h2>" in html, words
    assert not re.search(r"""(src|href)=["']?(https?:)?//""", html), "nothing comes from elsewhere"
    assert html.count("<svg") >= 7, "three plots twice, and the tensors"
    project, _ = ended
    assert str(project.root) not in html, "no folder of this machine"
    manifest = json.loads((page_file.parent / "manifest.json").read_text())
    for digest in (
        *manifest["files"].values(),
        *manifest["texts"].values(),
        manifest["source"]["digest"],
    ):
        assert digest in html
    assert "report.html" not in manifest["files"], "drawn from the rest"


def test_the_numbers_are_those_of_the_result(ended, page_file, browser):
    project, _ = ended
    result, page = project.result(), opened(browser, page_file)
    rows = page.locator("section", has=page.locator("#candidates")).locator("table tbody tr")
    assert rows.count() == len(result["candidates"]), "each once"
    best = {m["metric"]: m for m in result["winner"]["measurements"]}
    cells = rows.first.locator("td").all_text_contents()
    assert cells[0] == f"{best['size_bytes']['value'] / 1e6:.2f}"
    assert cells[1] == f"{best['kld_mean']['value']:.5f}"
    drawn = page.locator("#quality ~ figure .on-wide svg path title").all_text_contents()
    measured = [
        c for c in result["candidates"] if any(m["metric"] == "kld_mean" for m in c["measurements"])
    ]
    assert len(drawn) == len(measured), "a point a candidate"
    assert sum(t.startswith(f"{result['winner']['name']}: ") for t in drawn) == 1
    limits = page.locator("#asked ~ div table tbody tr")
    assert limits.count() == len(result["goal"]["constraints"])
    assert page.locator(".verdict").inner_text().startswith(STATUS_TEXTS[result["status"]])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_readable_by_everyone(page_file, browser, scheme):
    page = opened(browser, page_file, DESK, scheme)
    shot(page, f"report-1280-{scheme}")
    assert serious(page) == []
    small = opened(browser, page_file, PHONE, scheme)
    shot(small, f"report-390-{scheme}")
    assert not sideways(small), "only tables and the picture scroll sideways"
    assert small.locator(".on-narrow").first.is_visible()
    assert not small.locator(".on-wide").first.is_visible()
    for summary in small.locator("summary").all():
        summary.click()
    assert not sideways(small)
    assert serious(small) == []


def test_by_keyboard_and_on_paper(page_file, browser):
    page = opened(browser, page_file)
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open")
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.pdf(format="A4").startswith(b"%PDF")


def test_commands_can_be_copied(page_file, browser):
    context = browser.new_context(viewport=DESK, permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(page_file.as_uri())
    codes = page.locator(".command code").all_text_contents()
    assert any(c.startswith("llama-cli -m outputs/") for c in codes)
    again = next(c for c in codes if c.startswith("doit optimize"))
    assert "model=mine" in again, "a folder of the project's is named from there"
    page.locator(".command button").first.click()
    assert page.locator(".command button").first.inner_text() == "Copied"
    assert page.evaluate("navigator.clipboard.readText()") == codes[0]


ODD = (
    "model=it's mine",
    "model=`touch {place}`",
    "model=$(touch {place})",
    "model=x\\",
    "model=a!b~c",
    "goal.max_kld=1;touch {place}",
    "planner.types=[Q8_0,Q2_K]",
    "texts.report=a\ntouch {place}",
    "seed=%0",
    "model=caf\xe9",
)


@pytest.mark.parametrize("odd", ODD)
def test_a_command_pasted_into_a_shell_is_what_it_was(tmp_path, odd):
    """Whatever an option's value is: a shell reads one word, and runs nothing."""
    option = study = odd.format(place="ran")
    winner = {"recipe": {}, "artifact": {"path": f"{study}.gguf"}, "measurements": []}
    command = optimize_command(tmp_path, [option, "seed=1"])
    uses = usage_commands({"study": study, "winner": winner, "context": 512}, command, command)
    for line in (command, *(line for _, line in uses)):
        done = subprocess.run(
            ["bash", "-c", f"set -- {line}\nprintf '%s\\0' \"$@\""],
            cwd=tmp_path,
            capture_output=True,
            check=True,
        )
        words = done.stdout.decode().split("\0")[:-1]
        assert shlex.join(words) == line
        if line == command:
            assert words == ["doit", "optimize", option, "seed=1"]
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_twice(ended, page_file):
    project, _ = ended
    before, mark = page_file.read_bytes(), page_file.stat().st_mtime_ns
    shown = next(
        c
        for c in re.findall(r"<code>(doit optimize[^<]*)</code>", before.decode())
        if "replay" not in c
    )
    words = shlex.split(unescape(shown))
    done = project.doit(*words[1:], PYTHONPROFILEIMPORTTIME="1")
    assert "0 steps built" in done.stdout, "the command in the report is the study's"
    loaded = {
        line.split("|")[-1].strip()
        for line in done.stderr.splitlines()
        if line.startswith("import time:")
    }
    assert loaded, "the interpreter said what it imported"
    assert not loaded & {
        "altair",
        "jinja2",
        "vl_convert",
        "scipy",
        "nicegui",
        "sintra.results.pages.report_data",
        "sintra.results.pages.report",
    }
    assert page_file.stat().st_mtime_ns == mark
    made = project.doit("report")
    assert made.returncode == 0, made.stderr
    assert page_file.read_bytes() == before, "the same page, made again"
    assert project.doit("report", page_file.parent.name).returncode == 0
    wrong = project.doit("report", "nowhere")
    assert wrong.returncode == 2
    assert "outputs/nowhere holds no result" in wrong.stderr


def test_without_the_extra(ended, page_file, tmp_path):
    """Tables, and one line that says what draws the plots."""
    project, _ = ended
    (tmp_path / "altair.py").write_text("raise ImportError('not installed')\n")
    whole = page_file.read_bytes()
    done = project.doit("report", PYTHONPATH=str(tmp_path))
    html = page_file.read_text()
    page_file.write_bytes(whole)
    assert done.returncode == 0, done.stderr
    assert "pip install -c constraints.txt -e &#39;.[plot]&#39;" in html or "-e '.[plot]'" in html
    for words in PARTS:
        assert f">{words}</h2>" in html
    assert html.count("<svg") < 3, "the tensors alone"


def test_without_the_cache_or_a_winner(ended, tmp_path):
    """The folder alone still makes a page; so does a study that ended with nothing."""
    project, _ = ended
    source = replace(
        read_source(project.root, "latest"),
        workspace=None,
        missing="there is no model folder '/secret/mine'",
    )
    html = render_report(collect_report_data(project.root, source))
    assert "needs the study" in html
    assert "/secret" not in html
    none = source.result | {
        "winner": None,
        "candidates": [],
        "status": "impossible",
        "reason": "impossible: too large",
    }
    source = replace(source, result=none, rounds=[], missing="")
    html = render_report(collect_report_data(project.root, source))
    assert "Nothing was made: impossible: too large." in html


def test_two_hundred_candidates(ended, browser, tmp_path):
    """As large as a study gets: under 3 MB, everything there. (bench/report.py opens a real one,
    and says how fast.)
    """
    project, _ = ended
    source = read_source(project.root, "latest")
    many = [
        many_of(source.result["candidates"][i % len(source.result["candidates"])], i)
        for i in range(200)
    ]
    result = source.result | {"candidates": many, "winner": many[0]}
    text = render_report(replace(collect_report_data(project.root, source), result=result))
    assert len(text.encode()) < LIMIT
    path = tmp_path / "report.html"
    path.write_text(text)
    page = opened(browser, path)
    assert page.locator("#quality ~ figure .on-wide svg path title").count() == 200
    section = page.locator("section", has=page.locator("#candidates"))
    assert section.locator("table tbody tr").count() == 200


def test_probes_are_folded_away(ended, browser, tmp_path):
    """What was built to measure a group of tensors is no candidate to choose from."""
    project, _ = ended
    source = read_source(project.root, "latest")
    rows = [*source.result["candidates"]]
    at = next(i for i, row in enumerate(rows) if i and row["measurements"])
    rows[at] |= {"probe": "attn_k, first half", "name": "probe attn_k, first half"}
    result = source.result | {"candidates": rows}
    path = tmp_path / "report.html"
    path.write_text(
        render_report(replace(collect_report_data(project.root, source), result=result))
    )
    page = opened(browser, path)
    section = page.locator("section", has=page.locator("#candidates"))
    visible = [row for row in section.locator("table tbody tr").all() if row.is_visible()]
    assert len(visible) == min(12, len(rows) - 1)
    assert section.locator("summary").last.inner_text().startswith("1 sensitivity probe")
    assert "1 sensitivity probe isn't drawn" in page.locator("figcaption").first.inner_text()
    drawn = page.locator("#quality ~ figure .on-wide svg path title").all_text_contents()
    assert not any(words.startswith("probe ") for words in drawn)


def many_of(row, number):
    """A candidate's double with a recipe and numbers of its own."""
    tensors = (
        [[f"blk\\.{number}\\.", "Q4_K"], [".*", "Q8_0"]] if number else row["recipe"]["tensors"]
    )
    rows = [m | {"value": m["value"] * (1 + number / 150)} for m in row["measurements"]]
    return row | {"recipe": row["recipe"] | {"tensors": tensors}, "measurements": rows}


def test_words():
    assert format_number(1860.4) == "1\u202f860"
    assert (format_number(0.01534), format_number(5), format_number(0)) == ("0.0153", "5.00", "0")
    assert format_value("size_bytes", 2.5e9) == "2.50 GB"
    assert hide_folders("can't read /home-of/someone/model.gguf, 5 tokens/s, blk.0/attn") == (
        "can't read \u2026/model.gguf, 5 tokens/s, blk.0/attn"
    )
    assert (
        hide_folders("http://127.0.0.1:1/v1 ~/x/y ./a/b") == "http://127.0.0.1:1/v1 \u2026/y ./a/b"
    )
    assert public_override(ROOT, f"model={ROOT}/models/fable") == "model=models/fable"
    assert (
        public_override(ROOT, "planner.base_url=https://me:secret@host/v1?key=1")
        == "planner.base_url=https://host/v1"
    )


def test_what_a_divergence_means():
    """The words of the table in docs/trust.md, nearest as a ratio."""
    table = (ROOT / "docs" / "trust.md").read_text()
    for value, words in KLD_SCALE:
        assert re.search(rf"^\| (below )?{value:g} \| .*{words}", table, re.M), words
    assert describe_kld(0.0102) == describe_kld(0.005) == "hard to notice"
    assert describe_kld(1e-7) == "nobody can tell"
    assert describe_kld(0) == "the same model"
    assert describe_kld(3) == "a weaker model"


def test_ticks_of_a_logarithmic_axis():
    assert log_ticks(0.009, 0.12) == pytest.approx([0.01, 0.02, 0.05, 0.1])
    assert log_ticks(1e-6, 1) == pytest.approx([1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1])
