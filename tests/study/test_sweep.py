"""Many studies in one run: which cells there are, what they share, what becomes of one that fails,
which model to take.
"""

import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
from conftest import QUICK, ROOT

from sintra.core.errors import UserError
from sintra.results import pareto
from sintra.results.recommend import recommend
from sintra.study import sweep


@pytest.mark.parametrize(
    ("override", "values"),
    [
        ("goal.max_kld=0.01,0.05", ["0.01", "0.05"]),
        ("goal.max_kld=range(1,4)", ["1", "2", "3"]),
        ("hardware=choice(laptop,jetson_nano)", ["laptop", "jetson_nano"]),
        ("hardware=glob(raspberry*)", ["raspberry_pi_4", "raspberry_pi_5"]),
        ("model=./a,./b-1", ["./a", "./b-1"]),
        ("model=o/n@v1,o/m", ["o/n@v1", "o/m"]),
        ("hardware=glob([jetson*],exclude=*orin*)", ["jetson_nano"]),
        ("seed=sort(3,1,2)", ["1", "2", "3"]),
    ],
)
def test_hydras_sweeper_syntax(override, values):
    key = override.partition("=")[0]
    assert sweep.has_several_values(ROOT, override)
    assert sweep.single_overrides(ROOT, override) == [f"{key}={v}" for v in values]


@pytest.mark.parametrize(
    "override", ["planner.types=[Q2_K,Q4_K]", "model=fable", "model='a,b'", "goal.max_kld=0.1"]
)
def test_one_value_is_one(override):
    assert not sweep.has_several_values(ROOT, override)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("goal.max_kld=interval(0,1)", "range without steps"),
        ("hardware=glob(zx81*)", "no hardware matches"),
        ("seed=glob(*)", "glob() is for"),
        ("seed=range(1", "can't be read"),
        ("seed=range(0,1000000)", "a sweep takes 20000"),
        ("seed=range(0,1,0)", "not a range"),
        ("seed=range(nan)", "not a range"),
        ("seed=shuffle(range(1,9999999999))", "not a range"),
    ],
)
def test_what_is_no_list_is_refused(override, says):
    with pytest.raises(UserError, match=re.escape(says)):
        sweep.sweep_cells(ROOT, [override])


def test_cells_are_every_combination():
    found = sweep.sweep_cells(ROOT, ["model=a,b", "seed=1", "hardware=x,y"])
    assert found == [[f"model={m}", "seed=1", f"hardware={h}"] for m in "ab" for h in "xy"]


def test_steps_that_differ_have_names_that_differ(tmp_path):
    for name in ("conf", "models"):
        (tmp_path / name).symlink_to(ROOT / name)
    alike = sweep.open_studies(tmp_path, ["hardware=laptop,jetson_nano", "model=fable"])
    assert [p.label for p in alike] == ["", ""]
    (tmp_path / "other.txt").write_text("another text " * 2000)
    for swept in (
        "probe.search_tokens=5120,2048",
        "texts.search=models/texts/search.txt,other.txt",
        "seed=0,1",
    ):
        one, two = sweep.open_studies(tmp_path, [swept, "model=fable", "hardware=laptop"])
        steps = [
            {s.name for s in (p.graph().baseline("search"), p.graph().text("search"))}
            for p in (one, two)
        ]
        assert not steps[0] & steps[1], swept
    same = sweep.open_studies(tmp_path, ["hardware=laptop,laptop", "model=fable"])
    assert len(same) == 1, "equal cells are one study"


def test_the_front():
    rows = [
        {"size_bytes": s, "kld_mean": k}
        for s, k in ((3, 0.1), (1, 0.9), (2, 0.95), (4, 0.2), (2, 0.5))
    ]
    assert [(r["size_bytes"], r["kld_mean"]) for r in pareto.pareto_front(rows)] == [
        (1, 0.9),
        (2, 0.5),
        (3, 0.1),
    ]
    assert pareto.pareto_front([]) == []


def ended(model, bits, size, status="pass", hardware="pi", violated=(), **tasks):
    rows = [{"metric": "bits_per_byte", "value": bits, "stderr": 0.01}]
    rows += [{"metric": f"task:{k}:acc", "value": v, "stderr": 0.01} for k, v in tasks.items()]
    winner = {
        "measurements": rows,
        "artifact": {"bytes": size},
        "verdict": {"violated": list(violated)},
    }
    return {
        "model": model,
        "hardware": hardware,
        "status": status,
        "winner": winner,
        "study": f"{model}-1",
        "reason": "",
    }


def test_the_recommended_model_holds_the_limits_and_is_the_best():
    small, large = ended("small", 1.4, 10**6), ended("large", 1.2, 3 * 10**6)
    assert recommend([small, large]) == [
        "pi: take large (1.2000 +-0.0100 bits per byte, 3.00 MB)",
        "  not small: worse: 1.4000 +-0.0100 bits per byte, 1.00 MB",
    ]
    broken = ended("large", 1.2, 3 * 10**6, "fail", violated=[["device_ram_bytes", 3e9, 2e9, 1e9]])
    assert recommend([small, broken])[0].startswith("pi: take small")
    assert (
        "its device_ram_bytes is 3e+09 at best where the limit is 2e+09"
        in recommend([small, broken])[1]
    )


def test_what_cannot_be_told_apart_is_decided_by_size():
    near = recommend([ended("small", 1.21, 10**6), ended("large", 1.2, 3 * 10**6)])
    assert near[0].startswith("pi: take small")
    assert "the smallest of those with no clear difference" in near[0]


def test_tasks_count_before_text_and_each_device_by_itself():
    rows = [
        ended("a", 1.0, 1, qa=0.5),
        ended("b", 2.0, 2, qa=0.8),
        ended("b", 1.0, 2, hardware="tv", status="fail"),
        ended("a", 1.0, 2, hardware="fridge"),
        ended("b", 0.5, 2, hardware="fridge", qa=0.9),
    ]
    said = recommend(rows)
    assert said[0].startswith("pi: take b (0.800 +-0.010 of qa right")
    assert "tv: none of these models can be recommended" in said
    assert any(line.startswith("fridge: take b (0.5000") for line in said), (
        "a task that only one was given doesn't count"
    )


QUICKER = (
    *(q for q in QUICK if not q.startswith("planner.types")),
    "planner.types=[Q8_0,Q4_K_M]",
)


def test_a_sweep_shares_its_steps_and_survives_a_broken_model(project, tiny, tmp_path):
    broken = shutil.copytree(tiny, tmp_path / "broken")
    (broken / "config.json").write_text(
        json.dumps({"architectures": ["Nonesuch"], "model_type": "nonesuch"})
    )
    words = (
        "sweep",
        f"model={tiny},{broken}",
        "goal.max_kld=0.02,1e-9",
        "hardware=jetson_nano",
        *QUICKER,
    )
    done = project.doit(*words)
    assert done.returncode in (1, 2), done.stderr  # 2 where the model itself is the user's mistake
    assert "nonesuch" in done.stderr.lower()
    built = project.built(done)
    assert len(built) == len(set(built)), "every step once"
    assert sum(n == "quantize:tiny-Q8_0" for n in built) == 1
    (folder,) = (project.root / "outputs").glob("sweep-*")
    rows = json.loads((folder / "sweep.json").read_text())["rows"]
    assert [(float(r["goal.max_kld"]), r["status"]) for r in rows[:2]] == [
        (0.02, "pass"),
        (1e-9, "fail"),
    ]
    assert {r["status"] for r in rows[2:]} <= {"failed", "fail"}
    assert not any(r["winner"] for r in rows[2:])
    assert [r["study"] for r in csv.DictReader((folder / "sweep.csv").open())] == [
        r["study"] for r in rows
    ]
    assert "1 of 4 pass" in done.stdout
    page = (folder / "pareto.html").read_text()
    assert "http" not in re.sub(
        r"https?://(www\.w3\.org|vega\.github\.io/schema)\S*", "", page.split("<script", 1)[0]
    )
    again = project.doit(*words)
    assert not [n for n in project.built(again) if "tiny" in n]
    assert again.stdout == done.stdout


def test_the_better_model_unless_it_does_not_fit(project, tiny, tmp_path_factory):
    from conftest import make_llama

    other = make_llama(tmp_path_factory.mktemp("wide") / "wide", hidden=512)
    words = ("compare", f"model={tiny},{other}", "hardware=jetson_nano", *QUICKER)
    done = project.doit(*words)
    assert done.returncode == 0, done.stderr
    assert (
        len([line for line in done.stdout.splitlines() if line.startswith("jetson_nano: take ")])
        == 1
    )
    tight = project.doit(*words, "goal.max_size_mb=4")
    assert tight.returncode == 1, "a goal was missed"
    assert "jetson_nano: take tiny" in tight.stdout
    assert "not wide: its size_bytes is" in tight.stdout


def test_several_values_need_a_sweep(project):
    done = project.doit("optimize", "hardware=laptop,jetson_nano")
    assert done.returncode == 2
    assert (
        done.stderr.strip()
        == "sintra: hardware=laptop,jetson_nano names several: use `doit sweep` or `doit compare`"
    )


def test_the_same_through_hydra(project, tiny):
    """A real @hydra.main application, with its basic launcher; the second job finds the first one's
    steps.
    """
    folder = project.root / "conf2" / "model"
    folder.mkdir(parents=True)
    (folder / "mine.yaml").write_text(f"name: mine\nsource: {tiny}\n")
    words = ("hardware=jetson_nano,laptop", "model=mine", "goal.max_kld=1", *QUICKER)
    command = [sys.executable, "-m", "sintra", "-m", *words]
    done = subprocess.run(
        command,
        cwd=project.root,
        env=project.env(SINTRA_CONF_PATH=str(folder.parent)),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    built = project.built(done)
    assert len(built) == len(set(built))
    results = [
        json.loads(p.read_text()) for p in (project.root / "outputs").glob("mine-*/result.json")
    ]
    assert {r["hardware"] for r in results} == {"jetson_nano", "laptop"}
    elsewhere = subprocess.run(
        command, cwd=folder, env=project.env(), capture_output=True, text=True
    )
    assert (elsewhere.returncode, elsewhere.stderr.count("\n")) == (2, 1)


def test_what_a_sweeper_makes_small():
    from sintra.__main__ import value

    winner = {
        "measurements": [
            {"metric": "size_bytes", "value": 5.0},
            {"metric": "device_tg_tps", "value": 7.0},
        ]
    }
    assert value({"goal": {"minimise": "size_bytes"}, "status": "pass", "winner": winner}) == 5
    assert value({"goal": {"maximise": "device_tg_tps"}, "status": "pass", "winner": winner}) == -7
    assert value({"goal": {"minimise": "size_bytes"}, "status": "fail", "winner": winner}) == float(
        "inf"
    )
