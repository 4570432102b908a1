"""Leases, by real processes: exclusive, taken over from the dead and the frozen, never from the
living.
"""

import itertools
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sintra.build.run import run_step
from sintra.build.step import Step
from sintra.core.artifact import Artifact, File
from sintra.core.errors import UserError
from sintra.store import history, locks
from sintra.store.files import hash_file
from sintra.store.store import Store

LEASE_S = 2.0
HOLD = """
import sys, time
from pathlib import Path
from sintra.store.store import Store
root, key, times, hold = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), float(sys.argv[4])
for _ in range(times):
    with Store(root, "lease").lock(key):
        start = time.monotonic()
        print("held", flush=True)
        time.sleep(hold)
        print("from", start, "to", time.monotonic(), flush=True)
"""


@pytest.fixture(autouse=True)
def short(monkeypatch):
    monkeypatch.setenv("SINTRA_LEASE_S", str(LEASE_S))


def holder(root, key="k", times=1, hold=0.0, before=()):
    """A process that takes the lock so many times for so many seconds."""
    command = [*before, sys.executable, "-c", HOLD, str(root), key, str(times), str(hold)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def wait_held(process):
    assert process.stdout.readline() == "held\n"


def spans(process):
    out, _ = process.communicate(timeout=60)
    return [
        (float(w[1]), float(w[3])) for line in out.splitlines() if (w := line.split())[0] == "from"
    ]


def test_one_at_a_time(tmp_path):
    processes = [holder(tmp_path, times=15, hold=0.005) for _ in range(4)]
    found = sorted(s for p in processes for s in spans(p))
    assert len(found) == 60
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(found))


def test_a_killed_holder_of_this_machine_is_known_to_be_dead(tmp_path):
    process = holder(tmp_path, hold=60)
    wait_held(process)
    process.kill()
    process.wait()
    with Store(tmp_path, "lease").lock("k"):
        pass
    with locks.try_lock(tmp_path / "lock" / "k", "lease") as free:
        assert free


def test_a_killed_holder_of_another_machine_is_waited_out(tmp_path):
    """In a UTS namespace a process has another host name: its death can't be asked after, only its
    silence be noticed.
    """
    unshare = shutil.which("unshare")
    alone = (
        [unshare, "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"] if unshare else []
    )
    if not unshare or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("needs the right to make a UTS namespace")
    process = holder(tmp_path, hold=60, before=alone)
    wait_held(process)
    with locks.try_lock(tmp_path / "lock" / "k", "lease") as free:
        assert not free
    process.kill()
    process.wait()
    start = time.monotonic()
    with Store(tmp_path, "lease").lock("k"):
        waited = time.monotonic() - start
    assert waited >= LEASE_S * 0.9, "a lease isn't broken before its time"


def test_a_living_holder_keeps_it_whatever_the_clock_says(tmp_path, monkeypatch):
    monkeypatch.setenv("SINTRA_LEASE_S", "4")
    process = holder(tmp_path, hold=6)
    wait_held(process)
    marker = tmp_path / "lock" / "k.lease"
    for skew in (-86400.0, 86400.0):
        os.utime(marker, (time.time() + skew, time.time() + skew))
        with locks.try_lock(tmp_path / "lock" / "k", "lease") as free:
            assert not free
    with Store(tmp_path, "lease").lock("k"):
        mine = time.monotonic()
    assert mine >= spans(process)[0][1]


def test_a_frozen_holder_loses_it_and_what_it_finishes_does_no_harm(tmp_path):
    process = holder(tmp_path, hold=0.1, times=1)
    wait_held(process)
    process.send_signal(signal.SIGSTOP)
    try:
        with Store(tmp_path, "lease").lock("k"):
            process.send_signal(signal.SIGCONT)
            assert len(spans(process)) == 1
            with locks.try_lock(tmp_path / "lock" / "k", "lease") as free:
                assert not free, "it went away without taking the new holder's lease with it"
    finally:
        process.kill()
    with locks.try_lock(tmp_path / "lock" / "k", "lease") as free:
        assert free


def test_a_step_under_a_lease(tmp_path):
    """A real worker; what a dead one left is swept away, what a living one works on isn't."""
    text = tmp_path / "text"
    text.write_text("hello")
    digest = Artifact((File("text.txt", 5, hash_file(text)),)).digest
    step = Step("fetch", "text", {"kind": "file", "digest": digest}, hints={"from": str(text)})
    store = Store(tmp_path / "cache", "lease")
    dead, living = (store.folder("tmp") / f"{name * 64}.1" for name in "ab")
    dead.mkdir()
    living.mkdir()
    process = holder(store.root, "b" * 64, hold=60)
    wait_held(process)
    elsewhere = store.folder("orders") / "1.1.otherhost.json"
    elsewhere.touch()
    run_step(step, store)
    assert isinstance(step.outcome(store), Artifact)
    assert not dead.exists()
    assert living.exists()
    assert elsewhere.exists(), "another machine's orders are its own"
    assert [p.name for p in (store.root / "lock").glob("*.lease")] == ["b" * 64 + ".lease"]
    process.kill()
    process.wait()


MOUNTS = """22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda1 rw
30 22 0:40 / /users rw - nfs4 server:/users rw,vers=4.2
31 30 0:41 / /users/me/local\\040disk rw shared:7 master:2 - xfs /dev/vdb rw
32 22 0:42 / /mnt rw - ext4 /dev/vdc rw
33 32 0:43 / /mnt rw - fuse.sshfs host:/ rw
34 22 0:44 / /lab rw - lustre mds@tcp:/lab rw
a line that is none
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/", "ext4"),
        ("/usersx/x", "ext4"),
        ("/users", "nfs4"),
        ("/users/me/cache", "nfs4"),
        ("/users/me/local disk/x", "xfs"),
        ("/mnt/cache", "fuse.sshfs"),
        ("/lab/x", "lustre"),
    ],
)
def test_which_filesystem(path, kind):
    assert locks.filesystem_type(Path(path), MOUNTS) == kind


@pytest.mark.parametrize(
    "kind", ["nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "fuse", "fuse.gcsfuse", "ceph", "9p"]
)
def test_where_flock_is_not_trusted(kind):
    assert locks.UNRELIABLE_FLOCK.fullmatch(kind)


@pytest.mark.parametrize(
    "kind", ["ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "fuseblk", "fusectl", ""]
)
def test_where_it_is(kind):
    assert not locks.UNRELIABLE_FLOCK.fullmatch(kind)


def test_a_fuse_filesystem_is_noticed(tmp_path):
    bindfs = shutil.which("bindfs")
    below, mounted = tmp_path / "below", tmp_path / "mounted"
    below.mkdir()
    mounted.mkdir()
    if (
        not bindfs
        or subprocess.run([bindfs, str(below), str(mounted)], capture_output=True).returncode
    ):
        pytest.skip("needs bindfs and the right to mount")
    try:
        store = Store(mounted / "cache")
        with store.lock("k"):
            assert (below / "cache" / "lock" / "k.lease").exists()
            assert locks.machine_lock_path(store.root, "auto").parent != mounted / "cache" / "lock"
        assert not (below / "cache" / "lock" / "k.lease").exists()
        history.read_results(store.root / "history.db")
        assert not (store.root / "history.db-wal").exists()
    finally:
        subprocess.run(["umount", "-l", str(mounted)], check=True)


def test_a_wrong_kind():
    with pytest.raises(UserError, match="did you mean 'flock'"):
        locks.check_lock_kind("flok")
