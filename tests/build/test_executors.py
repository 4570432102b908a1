"""Steps elsewhere: jobs of Slurm (submitit's local executor, and a real one-node cluster where
there is one), tasks of Ray.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time

import psutil
import pytest
from clusters import RayHead, lose, one_node
from conftest import QUICK, make_project

from sintra.build.engine import engine
from sintra.build.executors.local import Local
from sintra.build.executors.slurm import exit_of_state
from sintra.build.remote_worker import exit_path, run_order
from sintra.build.run import run_step, write_order
from sintra.build.step import Step
from sintra.build.worker_process import ResourceRequest
from sintra.config.options import ExecutorConf
from sintra.config.policy import RunPolicy
from sintra.core.artifact import Artifact, File
from sintra.core.errors import UserError
from sintra.store.files import hash_file
from sintra.store.store import Store

QUICKER = (
    *(q for q in QUICK if not q.startswith("planner.types")),
    "planner.types=[Q8_0,Q4_K_M]",
)
SUBMITIT = ("executor=slurm", "executor.cluster=local", "executor.poll_s=0.2")


def terms(name, **options):
    return RunPolicy(ExecutorConf(**{"name": name, "poll_s": 0.2} | options))


def text_step(folder, size=1000):
    path = folder / "text.txt"
    path.write_bytes(b"x" * size)
    digest = Artifact((File("text.txt", size, hash_file(path)),)).digest
    return Step("fetch", "text", {"kind": "file", "digest": digest}, hints={"from": str(path)})


def workers(root):
    found = subprocess.run(
        ["pgrep", "-f", f"sintra.build.worker {root}"], capture_output=True, text=True
    ).stdout
    return [int(p) for p in found.split()]


def kill_one(root, seconds=60):
    """kill -9 the first worker that comes up; returns whether there was one."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := workers(root):
            os.kill(found[0], signal.SIGKILL)
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize(
    ("state", "cause"),
    [
        ("PENDING", None),
        ("RUNNING", None),
        ("REQUEUED", None),
        ("OUT_OF_MEMORY", "memory"),
        ("TIMEOUT", "late"),
        ("CANCELLED by 0", "cancelled"),
        ("NODE_FAIL", "lost"),
        ("PREEMPTED", "lost"),
        ("FAILED", "lost"),
        ("GONE", "lost"),
        ("COMPLETED", "exit"),
        ("CANCELLED+", "cancelled"),
    ],
)
def test_what_slurms_states_mean(state, cause):
    found = exit_of_state(state)
    assert (found and found.cause) == cause


@pytest.mark.parametrize(("folder", "mode"), [("", 0o777), ("", 0o1777), ("jobs", 0o757)])
def test_slurm_runs_nothing_from_a_folder_that_others_write(tmp_path, folder, mode):
    """submitit's jobs are pickles."""
    pytest.importorskip("submitit")
    from sintra.build.executors.slurm import Slurm

    options = ExecutorConf(cluster="local")
    (tmp_path / "jobs").mkdir(mode=0o700)
    Slurm(options, tmp_path)
    (tmp_path / folder).chmod(mode)
    with pytest.raises(UserError, match="other users can write there"):
        Slurm(options, tmp_path)


def test_more_memory_up_to_a_limit(tmp_path):
    from sintra.build.executors.slurm import Slurm

    slurm = Slurm(ExecutorConf(cluster="local", mem_gb=8.0, max_mem_gb=20.0), tmp_path)
    first = ResourceRequest("x", mem_gb=8.0)
    second = slurm.more(first)
    third = slurm.more(second)
    assert (second.mem_gb, third.mem_gb, slurm.more(third)) == (16.0, 20.0, None)
    asked = slurm.parameters(ResourceRequest("x", "alone", 4, True, 600.0, 0, 8.0))
    assert (
        asked["timeout_min"],
        asked["slurm_exclusive"],
        asked["mem_gb"],
        asked["cpus_per_task"],
    ) == (13, True, 8.0, 4)


def test_a_node_with_other_versions_is_refused(tmp_path):
    step, store = text_step(tmp_path), Store(tmp_path / "cache")
    order = {
        "key": step.key(store),
        "stage": "fetch",
        "step": step.name,
        "store": str(store.root),
        "inputs": {},
        "action": step.action(store) | {"tools": {"nonesuch": "0.0.1"}},
        "hints": step.hints,
        "cwd": str(tmp_path),
    }
    path = write_order(store, order, ResourceRequest(step.name))
    assert run_order(str(path)) == 0
    ending = json.loads(exit_path(path).read_text())
    assert (ending["cause"], ending["code"]) == ("exit", 2)
    assert "has nonesuch none where this study stands on 0.0.1" in ending["log"]
    path.unlink()
    assert run_order(str(path)) == 0, "an order that is gone was carried out by somebody else"


def test_options_that_cannot_be_meant(tmp_path):
    store = Store(tmp_path / "cache")
    with pytest.raises(UserError, match="use slurm, or local"):
        run_step(text_step(tmp_path), store, terms("slurm", cluster="pbs"))
    with pytest.raises(UserError, match="no executor is called 'pbs'"):
        run_step(text_step(tmp_path), store, terms("pbs"))


def test_a_whole_sweep_through_submitit_and_a_worker_killed_in_it(project, tiny):
    words = ("sweep", f"model={tiny}", "goal.max_kld=0.02,1e-9", "hardware=jetson_nano", *QUICKER)
    killed = []
    killer = threading.Thread(target=lambda: killed.append(kill_one(project.root)))
    killer.start()
    done = project.doit("-n", "4", *words, *SUBMITIT)
    killer.join()
    assert done.returncode == 1, done.stderr  # one of the two goals can't be met
    assert killed == [True]
    assert "again " in done.stderr
    built = project.built(done)
    assert len(built) == len(set(built))
    assert "1 of 2 pass" in done.stdout
    assert (
        list((project.root / "cache" / "jobs").iterdir())
        == list((project.root / "cache" / "orders").iterdir())
        == []
    )
    here = project.doit(*words)
    anew = project.built(here)
    assert anew, "what was measured elsewhere isn't taken for measured here"
    assert {n.split(":")[0] for n in anew} == {"speed", "memory"}
    assert not project.built(project.doit(*words, *SUBMITIT))


def test_told_to_stop_it_cancels_its_jobs(project, tiny):
    args = ["optimize", "hardware=jetson_nano", f"model={tiny}", *QUICKER, *SUBMITIT]
    running = subprocess.Popen(
        [sys.executable, "-m", "doit", *args],
        cwd=project.root,
        env=project.env(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    end = time.monotonic() + 60
    while not workers(project.root) and time.monotonic() < end:
        time.sleep(0.05)
    os.kill(running.pid, signal.SIGTERM)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 128 + signal.SIGTERM
    assert told.strip().splitlines()[-1].startswith("sintra: stopped; what was finished is kept")
    end = time.monotonic() + 10  # submitit gives its processes a second
    while workers(project.root) and time.monotonic() < end:
        time.sleep(0.1)
    assert workers(project.root) == []


def test_out_of_memory_beside_others_is_tried_alone():
    more = Local(ExecutorConf(), None).more(ResourceRequest("x", "heavy", 1))
    assert more.resource == "alone"
    assert Local(ExecutorConf(), None).more(more) is None


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    yield from one_node(tmp_path_factory.mktemp("slurm"))


def test_a_study_through_a_real_sbatch(slurm, converted, tiny, tmp_path):
    project = make_project(tmp_path / "project", converted)
    words = (
        "optimize",
        "hardware=jetson_nano",
        f"model={tiny}",
        *QUICKER,
        "executor=slurm",
        "executor.cpus=1",
        "executor.mem_gb=null",
        "executor.poll_s=0.2",
        "executor.partition=work",
    )
    done = project.doit(*words, **slurm.env)
    assert done.returncode == 0, done.stderr
    assert len(slurm.jobs()) == len(project.built(done)) > 5
    speed = next(m for m in project.result()["winner"]["measurements"] if m["metric"] == "tg_tps")
    assert speed["how"] == "measured"
    assert not project.built(project.doit(*words, **slurm.env))


def submitted(store, step, given):
    """The step under way in a thread; and what was said, and errors."""
    said, errors = [], []

    def work():
        try:
            run_step(step, store, given, said.append)
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, said, errors


def wait_for(found, seconds=60):
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.1)


@pytest.fixture
def held(tmp_path):
    """A step whose worker waits until `free` is set."""
    step, store, free = text_step(tmp_path), Store(tmp_path / "cache"), threading.Event()
    taken = threading.Event()

    def hold():
        with store.lock(step.key(store)):
            taken.set()
            free.wait(300)

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    yield step, store, free
    free.set()
    thread.join()


@pytest.mark.parametrize("fate", ["requeued", "node lost"])
def test_a_job_that_is_preempted_or_whose_node_is_lost(slurm, held, monkeypatch, fate):
    """`scontrol requeue` is what pre-emption does to a job; a lost node is its daemon killed with
    all its processes.
    """
    step, store, free = held
    for key, value in slurm.env.items():
        monkeypatch.setenv(key, value)
    before = set(slurm.jobs())
    thread, _, errors = submitted(store, step, terms("slurm", cluster="slurm", retries=2))
    wait_for(lambda: workers(store.root))
    (first,) = workers(store.root)
    if fate == "requeued":
        (job,) = set(slurm.jobs()) - before
        slurm.call("scontrol", "requeue", job)
    else:
        slurm.lose()
        slurm.until("down")
        slurm.node()
    wait_for(lambda: workers(store.root) not in ([], [first]), 200)
    free.set()
    thread.join(60)
    assert errors == []
    assert isinstance(step.outcome(store), Artifact)


def test_a_cancelled_job_is_not_tried_again(slurm, held, monkeypatch):
    step, store, _ = held
    for key, value in slurm.env.items():
        monkeypatch.setenv(key, value)
    before = set(slurm.jobs())
    thread, said, errors = submitted(store, step, terms("slurm", cluster="slurm", retries=2))
    wait_for(lambda: workers(store.root))
    (job,) = set(slurm.jobs()) - before
    slurm.call("scancel", job)
    thread.join(60)
    assert said == []
    assert [str(e) for e in errors] == ["fetch:text: cancelled (Slurm says CANCELLED)"]
    wait_for(lambda: not workers(store.root))


@pytest.fixture(scope="module")
def ray(tmp_path_factory):
    if importlib.util.find_spec("ray") is None:
        pytest.skip("needs the ray extra")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN", os.urandom(16).hex())
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.setenv("RAY_health_check_failure_threshold", "5")
        made = RayHead(tmp_path_factory.mktemp("ray"))
        made.head()
        yield made
        import ray as library

        library.shutdown()
        made.stop()


def test_ray_sends_what_measures_to_its_board_and_another_board_takes_over(ray, held):
    step, store, free = held
    given = terms("ray", address=ray.address, measure="jetson_nano", retries=2)
    machine = engine(given, store.root.resolve())
    measuring = ResourceRequest("speed:x", "alone", 0, True)
    with pytest.raises(UserError, match="no node of this Ray has that resource"):
        machine.executor.task_options(measuring)
    board = ray.board()
    wait_for(lambda: machine.executor.ray.cluster_resources().get("jetson_nano"))
    asked = machine.executor.task_options(measuring)
    assert (asked["resources"], asked["num_cpus"]) == ({"jetson_nano": 1}, 1)
    assert machine.executor.task_options(ResourceRequest("quality:x"))["resources"] == {}
    object.__setattr__(
        step.plugin, "platform", True
    )  # a step that measures and yet can be held back
    try:
        thread, said, errors = submitted(store, step, given)
        wait_for(lambda: workers(store.root))
        (first,) = workers(store.root)
        ours = [
            os.getpgid(c.pid)
            for c in psutil.Process(board.pid).children(recursive=True)
            if c.pid == first
        ]
        assert ours, "it runs on the board"
        lose(board)
        wait_for(lambda: not workers(store.root))
        another = ray.board()
        wait_for(lambda: workers(store.root), 120)
        free.set()
        thread.join(60)
    finally:
        object.__setattr__(step.plugin, "platform", False)
    assert another.poll() is None
    assert errors == []
    assert said[0].startswith("again   fetch:text (1 of 2): Ray says ")
    assert isinstance(step.outcome(store), Artifact)


def test_a_worker_killed_under_ray(ray, held):
    step, store, free = held
    thread, said, errors = submitted(store, step, terms("ray", address=ray.address, retries=1))
    assert kill_one(store.root)
    wait_for(lambda: said)
    free.set()
    thread.join(60)
    assert (errors, said) == ([], ["again   fetch:text (1 of 1): its worker was killed"])
    assert isinstance(step.outcome(store), Artifact)
