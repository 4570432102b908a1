"""The whole thing through doit, as a user runs it."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from conftest import QUICK, ROOT, make_llama

from sintra.build.leftovers import host_digest

HEAVY = (
    "torch",
    "transformers",
    "llama_cpp",
    "hydra",
    "diskcache",
    "lm_eval",
    "datasets",
    "jinja2",
    "altair",
    "vl_convert",
    "nicegui",
)
TIMES = ("steps", "wall_s", "llm")
SPEEDS = (
    "pp_tps",
    "tg_tps",
    "ram_peak_bytes",
    "ram_peak_mmap_bytes",
    "ram_load_bytes",
    "ram_prefill_bytes",
    "ram_decode_bytes",
)


def essence(result):
    """A result without times and measured speeds."""
    kept = {k: v for k, v in result.items() if k not in TIMES}
    for candidate in [*kept["candidates"], *([kept["winner"]] if kept["winner"] else [])]:
        candidate["measurements"] = [
            m for m in candidate["measurements"] if m["metric"].partition("@")[0] not in SPEEDS
        ]
    return kept


@pytest.fixture
def args(tiny):
    return ("optimize", "hardware=jetson_nano", f"model={tiny}", *QUICK)


def test_the_main_job(project, args):
    done = project.doit(*args)
    assert done.returncode == 0, done.stderr
    result = project.result()
    assert result["status"] == "pass"
    winner = result["winner"]
    out = project.root / "outputs" / "latest"
    assert {p.name for p in out.iterdir()} == {
        "model.gguf",
        "recipe.yaml",
        "result.json",
        "rounds.json",
        "manifest.json",
        "report.html",
    }
    assert (out / "model.gguf").stat().st_size == winner["artifact"]["bytes"]
    smaller = [
        c for c in result["candidates"] if c["artifact"]["bytes"] < winner["artifact"]["bytes"]
    ]
    assert all(c["verdict"]["status"] == "fail" for c in smaller), (
        "nothing smaller holds the limits"
    )
    hows = {m["metric"]: m["how"] for m in winner["measurements"]}
    assert hows["kld_mean"] == hows["tg_tps"] == "measured"
    assert hows["device_tg_tps"] == "estimated"
    assert winner["decided_on"] == "report"
    assert "doit export_ollama" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80

    left = project.root / "cache" / "orders" / f"{2**22 + 1}.1.{host_digest()}.json"
    left.touch()  # by a run that was killed when its last step was done
    again = project.doit(*args)
    assert again.returncode == 0
    assert project.built(again) == []
    assert project.result() == result
    assert not left.exists()

    (project.root / "cache" / "doit.db").unlink()
    assert project.built(project.doit(*args)) == [], (
        "freshness is the store's answer, not doit's database"
    )

    looser = project.doit(*args, "goal.max_kld=5")
    assert looser.returncode == 0, looser.stderr
    fresh = (
        "report",
        "second",
        "speed:",
        "memory:",
        "imatrix",
        "compensated",
        "curvature",
        "calibration",
    )
    assert all(any(word in s for word in fresh) for s in project.built(looser))
    assert project.result()["winner"]["artifact"]["bytes"] <= winner["artifact"]["bytes"]

    looser_out = out.resolve()
    looser_winner = project.result()["winner"]["recipe"]

    back = project.doit("rollback")
    assert back.returncode == 0
    assert os.readlink(project.root / "outputs" / "latest") == result["study"]

    rows = json.loads(project.doit("history", "--format", "json").stdout)
    assert [r["status"] for r in rows] == ["pass", "pass"]

    project.age_cache()
    collected = project.doit("gc")
    assert "deleted 0 entries" in collected.stdout
    assert project.built(project.doit(*args)) == [], "gc keeps what studies need"

    own = [a for a in args if a != "planner=ladder"]
    replayed = project.doit(
        *own, "planner=replay", f"planner.replay={looser_out}/recipe.yaml", "goal.max_kld=5"
    )
    assert replayed.returncode == 0
    assert project.built(replayed) == [], "a plan can be replayed without its planner"
    assert project.result()["winner"]["recipe"] == looser_winner


def test_no_op_imports_nothing_heavy(project, args):
    assert project.doit(*args).returncode == 0
    code = (
        "import sys; from doit.doit_cmd import DoitMain\ncode = DoitMain().run(sys.argv[1:])\n"
        # not a lazy one
        f"print('HEAVY', code, [m for m in {HEAVY} if type(sys.modules.get(m)) is type(sys)])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=project.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HEAVY 0 []" in done.stdout


def test_what_changes_and_what_does_not(project, args, tmp_path, tiny):
    texts = shutil.copytree(ROOT / "models" / "texts", tmp_path / "texts")
    roles = {"calibration": "calibration", "search": "search", "report": "report", "far": "second"}
    names = [f"texts.{role}={texts / name}.txt" for name, role in roles.items()]
    assert project.doit(*args, *names, "goal.max_kld=0.001").returncode in (0, 1)

    (texts / "calibration.txt").write_text(
        "Another text.\n" + (texts / "calibration.txt").read_text()
    )
    plan = json.loads(
        project.doit("plan", "--format", "json", *args[1:], *names, "goal.max_kld=0.001").stdout
    )
    assert plan["steps"], "the dry run knows the first round"
    done = project.doit(*args, *names, "goal.max_kld=0.001")
    stages = {s.split(":")[0] for s in project.built(done)}
    assert "curvature" in stages
    assert not stages & {"toolchain", "convert", "baseline"}
    others = [s for s in project.built(done) if not s.startswith(("fetch:text-cal", "curvature"))]
    assert all("imatrix" in s or "compensated" in s for s in others)

    store = project.root / "cache"
    before = sorted(p.name for p in (store / "cas").glob("*/*"))
    entry = next(
        p
        for p in (store / "ac").glob("*/*.json")
        if json.loads(p.read_text())["step"] == "convert:tiny"
    )
    entry.unlink()
    again = project.doit(*args, *names, "goal.max_kld=0.001")
    assert project.built(again) == ["convert:tiny"], (
        "equal bytes upstream leave everything downstream alone"
    )
    assert sorted(p.name for p in (store / "cas").glob("*/*")) == before


def test_a_comment_in_a_stage_reruns_nothing(tmp_path, project, args):
    assert project.doit(*args).returncode == 0
    package = shutil.copytree(ROOT / "sintra", project.root / "sintra")
    stage = package / "stages" / "quantize.py"
    stage.write_text(stage.read_text() + "\n# a remark\n")
    done = project.doit(*args, PYTHONPATH=str(project.root))
    assert done.returncode == 0, done.stderr
    assert project.built(done) == []
    stage.write_text(stage.read_text().replace('Stage("quantize", 2', 'Stage("quantize", 3'))
    done = project.doit(*args, PYTHONPATH=str(project.root))
    built = project.built(done)
    assert built, "a new stage version rebuilds the stage"
    assert {s.split(":")[0] for s in built} == {"quantize"}, (
        "and nothing below it, since its bytes are equal"
    )


def test_killed_anywhere_it_goes_on(project, args, tmp_path):
    whole = project.doit(*args)
    assert whole.returncode == 0
    expected = essence(project.result())
    entries = {p.name for p in (project.root / "cache" / "ac").glob("*/*.json")}
    for name in ("cache", "outputs"):
        (project.root / name).rename(tmp_path / name)
    shutil.copytree(tmp_path / "cache" / "meta", project.root / "cache" / "meta")
    rng = random.Random(1)
    for _ in range(4):
        running = project.start(*args)
        time.sleep(rng.uniform(1.0, 6.0))
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    done = project.doit(*args)
    assert done.returncode == 0, done.stderr
    assert essence(project.result()) == expected
    assert {p.name for p in (project.root / "cache" / "ac").glob("*/*.json")} == entries, (
        "each step was published once"
    )
    assert project.doit("verify").returncode == 0
    assert not [p for p in (project.root / "cache" / "tmp").iterdir() if p.is_dir()]


def test_a_damaged_blob_is_found_and_rebuilt(project, args):
    assert project.doit(*args).returncode == 0
    blob = max((project.root / "cache" / "cas").glob("*/*"), key=lambda p: p.stat().st_size)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.chmod(0o644)
    blob.write_bytes(data)
    found = project.doit("verify")
    assert found.returncode == 1
    assert found.stdout.count("damaged:") == 1
    assert len(project.built(project.doit(*args))) == 1
    assert project.doit("verify").returncode == 0


def test_two_at_once_share_the_work(project, args):
    both = [project.start(*args, "max_rounds=1"), project.start(*args, "max_rounds=1")]
    assert [p.wait(300) for p in both] == [0, 0]
    assert project.built(project.doit(*args, "max_rounds=1")) == []
    assert project.doit("verify").returncode == 0


def test_impossible_limits_start_nothing(project, args):
    done = project.doit(*args, "goal.max_size_mb=0.05")
    assert done.returncode == 1
    assert "goal.max_size_mb asks for size_bytes <= 0.05 MB" in " ".join(done.stdout.split())
    assert project.built(done) == []
    assert project.result()["status"] == "impossible"


def test_a_fail_still_delivers_the_best(project, args):
    done = project.doit(*args, "goal.max_kld=0.0000000001")
    assert done.returncode == 1
    result = project.result()
    assert result["status"] == "fail"
    assert result["winner"]["verdict"]["violated"][0][0] == "kld_mean"
    assert (project.root / "outputs" / "latest" / "model.gguf").exists()
    assert "FAIL    no candidate holds all limits; closest: " in done.stdout
    assert any(c["recipe"]["importance"] for c in result["candidates"])


def test_a_step_past_its_time_is_killed_with_its_children(project, args):
    done = project.doit(*args, "timeout_s=0.3")
    assert done.returncode == 1
    assert "its time limit" in done.stderr
    assert len(done.stderr.strip().splitlines()) <= 14
    assert not list((project.root / "cache" / "orders").iterdir())
    time.sleep(0.2)
    assert (
        subprocess.run(
            ["pgrep", "-f", f"sintra.build.worker {project.root}"], capture_output=True
        ).returncode
        == 1
    )
    assert project.doit(*args).returncode == 0


def test_an_unseen_narrow_model(project, tmp_path):
    narrow = make_llama(tmp_path / "some_other_llama", hidden=64, layers=3, seed=5)
    done = project.doit(
        "optimize",
        "hardware=raspberry_pi_4",
        f"model={narrow}",
        *QUICK,
        "goal.max_kld=10",
        "limits.deliver_s=0",
    )
    assert done.returncode == 0, done.stderr
    lines = done.stderr.replace("\n        ", " ").splitlines()  # wrapped at 80 columns
    early = [line for line in lines if line.startswith("early ")]
    assert early, "nothing was delivered before the end"
    assert "passes on the search text: outputs/some-other-llama-" in early[0]
    assert project.result()["reason"] != "the study goes on"
    winner = project.result()["winner"]
    model = project.root / "outputs" / "latest" / "model.gguf"
    from sintra.formats.gguf.layout import read_layout

    layout = read_layout(model)
    assert winner["artifact"]["bytes"] == model.stat().st_size
    types = {t[1] for t in layout["tensors"] if len(t[3]) == 2}
    assert not types & {"Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"}, (
        "rows of 64 don't fit K-quants: llama.cpp falls back"
    )
    assert layout["shape"]["layers"] == 3


@pytest.mark.parametrize(
    "argument", ["hardware=jetson_nan", "goal.max_kdl=1", "model=./gone", "texts.search=gone.txt"]
)
def test_mistakes_are_one_line_and_start_nothing(project, argument):
    done = project.doit("optimize", argument)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("sintra: ")
    assert not (project.root / "outputs").exists()


def test_doit_commands_behave(project, args):
    assert project.doit(*args, "max_rounds=1").returncode == 0
    rest = [*args[1:], "max_rounds=1"]
    listed = project.doit("list", "--all", *rest)
    assert "quantize:tiny-Q4_K_M" in listed.stdout
    info = project.doit("info", "quality:tiny-Q4_K_M-search", *rest)
    assert "up-to-date" in info.stdout
    assert "ladder: stock preset" in info.stdout
    assert project.doit("forget", "quality:tiny-Q4_K_M-search", *rest).returncode == 0
    assert project.built(project.doit(*args, "max_rounds=1")) == ["quality:tiny-Q4_K_M-search"]
    assert project.doit("clean", "quality:tiny-Q4_K_M-search", *rest).returncode == 0
    why = project.doit("why", "quality:tiny-Q4_K_M-search", *rest)
    assert "to be built" in why.stdout
    assert "no step" in project.doit("why", "quality:nothing", *rest).stderr
    for name in ("optimize", "plan", "why", "history", "verify", "gc", "rollback", "export_ollama"):
        assert len(project.doit("help", name, *rest).stdout) > 40
    assert "doit optimize" in project.doit().stdout


def test_why_names_the_part_that_changed(project, args):
    assert project.doit(*args, "max_rounds=1").returncode == 0
    rest = [*args[1:], "max_rounds=1", "probe.search_tokens=512"]
    project.doit("optimize", *rest, "timeout_s=0.01")
    told = project.doit("why", "baseline:tiny-search", *rest)
    assert "params.tokens: 1024 -> 512" in told.stdout
