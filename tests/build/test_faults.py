"""Faults that come from outside: a full disk, no memory, Ctrl-C, a worker killed by hand."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import QUICK, make_project

from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.core.artifact import Artifact, Failure, File
from sintra.core.errors import Transient, disk_error
from sintra.store.maintenance import verify_blobs
from sintra.store.store import Store

SMALL = ("planner=ladder", "planner.types=[Q8_0]", "max_rounds=1")


@pytest.fixture
def project(tmp_path, toolchain):
    """A project whose studies begin with a step that lasts: the conversion."""
    return make_project(tmp_path / "project", toolchain)


@pytest.fixture
def args(tiny):
    return ("optimize", "hardware=jetson_nano", f"model={tiny}", QUICK[0], *SMALL)


@pytest.fixture
def full(tmp_path):
    """A disk of 3 MB, where this machine lets a test mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("needs the right to mount a tmpfs")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def text_step(path, size):
    """A step that brings a file of this size into the store."""
    path.write_bytes(b"x" * size)
    from sintra.store.files import hash_file

    digest = Artifact((File("text.txt", size, hash_file(path)),)).digest
    return Step(
        "fetch", f"text-{size}", {"kind": "file", "digest": digest}, hints={"from": str(path)}
    )


def test_a_full_disk(full, tmp_path):
    store = Store(full / "cache")
    large, small = text_step(tmp_path / "large", 4_000_000), text_step(tmp_path / "small", 1000)
    with pytest.raises(Transient, match="no space left on the disk"):
        run_step(large, store)
    assert large.outcome(store) is None, "a full disk is no result"
    run_step(small, store)
    assert isinstance(small.outcome(store), Artifact), (
        "what fits goes on; nothing was left lying about"
    )
    assert list(verify_blobs(Store(full / "cache"))) == []


def test_a_full_disk_in_words(tmp_path):
    assert "doit gc" in str(disk_error(OSError(errno.ENOSPC, "x"), tmp_path))
    other = OSError(errno.EIO, "x")
    assert disk_error(other, tmp_path) is other


def test_no_memory_is_a_result(tmp_path, monkeypatch):
    """A stage that asks for more than there is: in a real worker under a real limit."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))\nfrom "
        "sintra.build import worker; from sintra.core import plugins; from sintra.core.stage "
        "import Stage\ndef run(context): bytearray(1 << 40)\nplugins.load_step = lambda name: "
        "Stage(name, 1, run)\nsys.exit(worker.main(sys.argv[1:]))"
    )
    store = Store(tmp_path / "cache")
    order = tmp_path / "order.json"
    import json

    rest = {"action": {"params": {}}, "inputs": {}, "hints": {}, "threads": 1}
    order.write_text(
        json.dumps(
            {
                "key": "a" * 64,
                "stage": "greedy",
                "step": "greedy:x",
                "store": str(store.root),
                **rest,
            }
        )
    )
    env = {k: v for k, v in os.environ.items() if k != "SINTRA_PARENT"}
    assert subprocess.run([sys.executable, "-c", code, str(order)], env=env).returncode == 0
    found = store.lookup("a" * 64)
    assert isinstance(found, Failure)
    assert found.kind == "out_of_memory"


def workers(project):
    """Process ids of this project's workers."""
    found = subprocess.run(
        ["pgrep", "-f", f"sintra.build.worker {project.root}"], capture_output=True, text=True
    ).stdout
    return [int(p) for p in found.split()]


def listen(project, command):
    """Start doit and keep what it says."""
    return subprocess.Popen(
        command,
        cwd=project.root,
        env=project.env(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def wait_for_worker(project):
    for _ in range(600):
        if found := workers(project):
            return found[0]
        time.sleep(0.05)
    raise AssertionError("no worker came up")


@pytest.mark.parametrize(
    ("number", "options"), [(signal.SIGINT, []), (signal.SIGTERM, []), (signal.SIGINT, ["-n", "2"])]
)
def test_stopped_it_leaves_nothing_running_and_the_next_run_goes_on(project, args, number, options):
    command = [sys.executable, "-m", "doit", *options, *args]
    running = listen(project, command)
    wait_for_worker(project)
    time.sleep(0.5)
    os.kill(running.pid, number)
    _, told = running.communicate(timeout=30)
    assert running.returncode == 128 + number
    assert told.strip().splitlines()[-1].startswith("sintra: stopped; what was finished is kept")
    assert "Traceback" not in told
    time.sleep(0.3)
    assert workers(project) == []
    assert project.doit(*args).returncode == 0


def test_a_worker_killed_by_hand_is_said_and_not_kept(project, args):
    command = [sys.executable, "-m", "doit", *args]
    running = subprocess.Popen(
        command,
        cwd=project.root,
        env=project.env(),
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    os.kill(wait_for_worker(project), signal.SIGKILL)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 1
    assert "its worker was killed" in told
    assert project.doit(*args).returncode == 0
