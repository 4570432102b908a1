"""Limits of time, memory and politeness; who may run beside whom."""

import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from conftest import QUICK, ROOT

from sintra.build.admission import Gate
from sintra.build.engine import engine
from sintra.build.executors.local import Local
from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.build.worker_process import ResourceRequest, WorkerExit, oom_kills
from sintra.config import compose
from sintra.config.options import Config, ExecutorConf, LimitsConf
from sintra.config.policy import RunPolicy, measured_on, side_by_side
from sintra.core.artifact import Artifact, File
from sintra.core.errors import Transient, UserError
from sintra.core.plugins import own_entry_points
from sintra.hardware.memory_limit import memory_limit
from sintra.store.files import hash_file
from sintra.store.store import Store

GB = 10**9


def text_step(folder):
    path = folder / "text.txt"
    path.write_bytes(b"x" * 1000)
    digest = Artifact((File("text.txt", 1000, hash_file(path)),)).digest
    return Step("fetch", "text", {"kind": "file", "digest": digest}, hints={"from": str(path)})


def test_there_is_a_time_limit_for_every_stage():
    stages = {e.name for e in own_entry_points() if e.group in ("sintra.stages", "sintra.probes")}
    limits = {key for key in sorted(compose.keys()) if key.startswith("limits.timeout.")}
    assert limits == {f"limits.timeout.{stage}" for stage in stages}


def test_a_time_limit_is_an_option_of_its_own(tmp_path):
    raw = ["limits.timeout.quantize=5", "limits.timeout.fetch=null"]
    config = compose.compose(ROOT, raw, tmp_path)
    assert config.limits.timeout == {"quantize": 5.0, "fetch": None}
    assert compose.compose(ROOT, raw, tmp_path) == config
    with pytest.raises(UserError, match="could not be converted to Float"):
        compose.compose(ROOT, ["limits.timeout.quantize=soon"])


def test_the_narrower_limit_goes_first():
    limits = LimitsConf(timeout={"quantize": 5.0, "fetch": None})
    policy = RunPolicy.of(Config(limits=limits, timeout_s=7.0))
    assert policy.seconds("quantize", 6.0, 9.0) == 5
    assert policy.seconds("gptq", 6.0, 9.0) == 6
    assert policy.seconds("fetch", None, 9.0) == 7
    assert RunPolicy.of(Config()).seconds("fetch", None, 9.0) == 9


@pytest.mark.parametrize(
    "option", ["study_minutes=0", "heavy=0", "memory_gb=-1", "timeout.quantize=-3"]
)
def test_limits_that_cannot_be_meant(option):
    with pytest.raises(UserError, match=f"limits.{option} isn't a number"):
        compose.compose(ROOT, [f"limits.{option}"])


def test_where_it_is_measured():
    slurm = ExecutorConf(name="slurm", partition="cpu")
    assert measured_on(ExecutorConf()) == ""
    assert measured_on(slurm) == "slurm:cpu"
    assert measured_on(replace(slurm, measure="quiet")) == "slurm:quiet"
    assert side_by_side(["model=x"]) == side_by_side(["executor=local"]) == 0
    assert (side_by_side(["executor=ray"]), side_by_side(["executor.jobs=3", "executor=ray"])) == (
        16,
        3,
    )


def together(gate, *needs):
    """Which of these steps, asked for in this order, are let in while none has ended."""
    inside, held = [], []
    for number, need in enumerate(needs):
        if gate.room(need):
            entered = gate.hold(need)
            entered.__enter__()
            held.append(entered)
            inside.append(number)
    for entered in held:
        entered.__exit__(None, None, None)
    assert (gate.free, gate.builds, gate.reserved) == (gate.size + 1, 0, 0)
    return inside


def test_who_may_run_beside_whom():
    light, heavy, alone = (ResourceRequest("x", kind) for kind in ("light", "heavy", "alone"))
    assert together(Gate(4), heavy, heavy, light, light) == [0, 2]
    assert together(Gate(4), alone, light, heavy, alone) == [0]
    assert together(Gate(4), light, alone, light) == [0, 2]
    assert together(Gate(4, heavy=2), heavy, heavy, heavy, light, light) == [0, 1, 3]
    assert (Gate(4, heavy=2).share, Gate(4, heavy=99).share, Gate(1, heavy=2).share) == (2, 1, 1)


def test_heavy_steps_share_the_memory():
    small, large, huge = (ResourceRequest("x", memory=n * GB) for n in (3, 6, 20))
    gate = Gate(4, heavy=3, memory=10 * GB)
    assert together(gate, small, small, small) == [0, 1, 2]
    assert together(gate, small, large, small) == [0, 1]
    assert together(gate, huge, small) == [0], "what asks for more than there is runs by itself"
    assert together(gate, small, huge) == [0]


def test_a_step_waits_for_its_turn():
    gate, order = Gate(2), []
    measuring = threading.Event()

    def measure():
        with gate.hold(ResourceRequest("speed", "alone")):
            measuring.set()
            order.append("measured")

    with gate.hold(ResourceRequest("build")):
        waiting = threading.Thread(target=measure)
        waiting.start()
        assert not measuring.wait(0.2)
        order.append("built")
    waiting.join(10)
    assert order == ["built", "measured"]


def test_a_steps_time_limit_by_its_stage(tmp_path):
    step, store = text_step(tmp_path), Store(tmp_path / "cache")
    with (
        store.lock(step.key(store)),
        pytest.raises(
            Transient, match=r"stopped after 0.5 s, its time limit \(limits.timeout.fetch"
        ),
    ):
        run_step(step, store, RunPolicy(timeouts=(("fetch", 0.5),), timeout_s=100))
    assert step.outcome(store) is None


def test_time_that_is_up_starts_nothing(tmp_path):
    step, store = text_step(tmp_path), Store(tmp_path / "cache")
    with pytest.raises(Transient, match=r"the run's time is up \(limits.study_minutes=1e-06\)"):
        run_step(step, store, RunPolicy(study_s=6e-5))
    assert not (tmp_path / "cache" / "ac").exists()


def test_background_workers_give_way(tmp_path):
    step, store = text_step(tmp_path), Store(tmp_path / "cache")
    niceness = []
    with store.lock(step.key(store)):
        thread = threading.Thread(target=lambda: run_step(step, store, RunPolicy(background=True)))
        thread.start()
        for _ in range(600):
            if niceness := polite(tmp_path):
                break
            thread.join(0.05)
    thread.join()
    assert niceness == [19]
    assert isinstance(step.outcome(store), Artifact)


def polite(folder):
    """The niceness of this folder's workers that have given way."""
    import psutil

    found = [
        p
        for p in psutil.process_iter(["cmdline"])
        if f"sintra.build.worker {folder}" in " ".join(p.info["cmdline"] or ())
    ]
    try:
        return [n for p in found if (n := p.nice()) > psutil.Process().nice()]
    except psutil.NoSuchProcess:
        return []


class Crowded(Local):
    """A machine whose kernel kills every worker, or those that don't run alone, for memory."""

    def __init__(self, fate):
        super().__init__(ExecutorConf(), None)
        self.fate, self.asked = fate, []

    def submit(self, order, need):
        self.asked.append(need.resource)
        return (
            super().submit(order, need)
            if self.fate == "alone" and need.resource == "alone"
            else Starved()
        )


class Starved:
    def wait(self, until):
        return WorkerExit("memory", -9, "")

    def cancel(self):
        """It has ended already."""


@pytest.mark.parametrize("fate", ["alone", "never"])
def test_killed_for_want_of_memory(tmp_path, monkeypatch, fate):
    step, store = text_step(tmp_path), Store(tmp_path / "cache")
    monkeypatch.setitem(step.plugin.__dict__, "resource", "heavy")
    machine = engine(RunPolicy(), store.root.resolve())
    monkeypatch.setattr(machine, "executor", Crowded(fate))
    said = []
    run_step(step, store, RunPolicy(), said.append)
    assert machine.executor.asked == ["heavy", "alone"]
    assert said == ["again   fetch:text: killed for want of memory, now with nothing beside it"]
    found = step.outcome(store)
    if fate == "alone":
        assert isinstance(found, Artifact)
    else:
        assert (found.kind, store.failed_this_run, Store(store.root).lookup(step.key(store))) == (
            "out_of_memory",
            True,
            None,
        )


def test_the_kernels_kills_are_counted():
    """A real one, where this machine lets a test make a memory group."""
    before = oom_kills()
    with memory_limit(64 << 20) as group:
        if group.kind != "cgroup":
            pytest.skip("no memory group can be made here")
        code = "import sys; sys.stdin.readline(); bytearray(1 << 30)"
        child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE)
        group.add_process(child.pid)
        child.communicate(b"\n", timeout=60)
        assert child.returncode == -9
    assert oom_kills() > before


def test_a_study_whose_time_is_up_delivers_the_best_so_far(project, tiny):
    args = (
        "optimize",
        "hardware=jetson_nano",
        f"model={tiny}",
        QUICK[0],
        "planner=ladder",
        "planner.rounding=nearest",
        "goal.max_kld=1",
    )
    first = project.doit(*args, "planner.types=[Q8_0]")
    assert first.returncode == 0, first.stderr
    more = (*args, "planner.types=[Q8_0,Q4_K_M]")
    cut = project.doit(*more, "limits.study_minutes=0.001")
    assert cut.returncode == 1, cut.stderr
    assert project.built(cut) == []
    assert "the run's time is up (limits.study_minutes=0.001)" in cut.stderr
    result = project.result()
    assert result["reason"] == "the run's time was up (limits.study_minutes=0.001)"
    assert result["winner"]["recipe"]["type"] == "Q8_0"
    whole = project.doit(*more)
    assert whole.returncode == 0, whole.stderr
    assert "quantize:tiny-Q4_K_M" in project.built(whole)
    assert project.result()["reason"] == "decided"


def test_misspelt_limits_are_said(project):
    done = project.doit("optimize", "hardware=laptop", "limits.timeout.quantise=5")
    assert (done.returncode, done.stderr) == (
        2,
        "sintra: unknown option 'limits.timeout.quantise': did you mean "
        "'limits.timeout.quantize'?\n",
    )
