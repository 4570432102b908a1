"""A Slurm of one node and a Ray of two, started for a test and ended after it; both on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

SLURM = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=5
CredType=cred/munge
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SlurmUser=root
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmdTimeout=5
MinJobAge=300
KillWait=2
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
SchedulerParameters=bf_interval=1
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
DefMemPerCPU=2000
MpiDefault=none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=8000 State=UNKNOWN
PartitionName=work Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    found = [s.getsockname()[1] for s in sockets]
    for each in sockets:
        each.close()
    return found


class OneNode:
    """munged, slurmctld and slurmd of Debian's packages, as root, without systemd."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.env = {"SLURM_CONF": str(folder / "slurm.conf")}
        self.host = socket.gethostname().split(".")[0]
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o755)
        (folder / "key").write_bytes(os.urandom(1024))
        (folder / "key").chmod(0o400)
        text = SLURM.format(host=self.host, folder=folder, ports=free_ports(2), cpus=os.cpu_count())
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        """All three."""
        munge = self.folder / "munge"
        self.call(
            "munged",
            "--force",
            f"--key-file={self.folder}/key",
            f"--socket={munge}/socket",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )
        self.call("slurmctld", "-f", self.env["SLURM_CONF"])
        self.node()
        self.until("idle")

    def node(self) -> None:
        """The node's daemon."""
        self.call("slurmd", "-f", self.env["SLURM_CONF"])

    def call(self, *command: str) -> str:
        """Run one of Slurm's commands."""
        done = subprocess.run(
            command,
            env=os.environ | self.env,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return done.stdout

    def until(self, state: str) -> None:
        """Wait for the node's state."""
        for _ in range(300):
            if state in self.call("sinfo", "--noheader", "--format=%T"):
                return
            time.sleep(0.1)
        raise AssertionError(self.call("sinfo"))

    def jobs(self) -> dict[str, str]:
        """Every job's state."""
        lines = self.call("squeue", "--noheader", "--states=all", "--format=%i %T").splitlines()
        return dict(line.split() for line in lines)

    def lose(self) -> None:
        """kill -9 the daemon and everything that runs under it, as when the machine goes."""
        import psutil

        pid = int((self.folder / "slurmd.pid").read_text())
        steps = [
            p
            for p in psutil.process_iter(["cmdline"])
            if "slurmstepd" in " ".join(p.info["cmdline"] or ())
        ]
        below = [c for p in steps if self.ours(p) for c in [*p.children(recursive=True), p]]
        os.kill(pid, signal.SIGKILL)
        for process in below:
            process.kill()

    def ours(self, process) -> bool:
        """Whether a slurmstepd belongs to this cluster."""
        try:
            return str(self.folder) in " ".join(process.environ().values()) or any(
                str(self.folder) in f.path for f in process.open_files()
            )
        except Exception:
            return False

    def stop(self) -> None:
        """End the daemons."""
        for name in ("slurmd.pid", "slurmctld.pid", "munge/pid"):
            path = self.folder / name
            if path.exists():
                try:
                    os.kill(int(path.read_text()), signal.SIGTERM)
                except ProcessLookupError:
                    continue
                time.sleep(0.2)


def one_node(folder: Path):
    """A fixture's body; skips where the packages or the rights are missing."""
    if os.getuid() != 0 or not all(
        shutil.which(p) for p in ("munged", "slurmctld", "slurmd", "sbatch")
    ):
        pytest.skip("needs root and Debian's slurmctld, slurmd, slurm-client and munge")
    made = OneNode(folder)
    made.start()
    yield made
    made.stop()


class RayHead:
    """A Ray cluster: a head without the board's resource, and nodes that come and go."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_ports(1)[0]
        self.address = f"127.0.0.1:{self.port}"
        self.nodes: list[subprocess.Popen[bytes]] = []
        self.short = tempfile.mkdtemp(
            prefix="ray"
        )  # a socket's path has 107 bytes at most, and pytest's folders are deep

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        """`ray start --block`, in a process group of its own."""
        ray = Path(sys.executable).with_name("ray")
        fixed = [
            "--node-ip-address=127.0.0.1",
            "--num-cpus=1",
            "--object-store-memory=80000000",
            "--min-worker-port=0",
            "--max-worker-port=0",
        ]
        command = [str(ray), "start", "--block", *fixed, *more]
        with (self.folder / f"node{len(self.nodes)}.log").open("wb") as log:
            self.nodes.append(
                subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
            )
        return self.nodes[-1]

    def head(self) -> None:
        """The head, and wait for it."""
        self.start(
            "--head",
            f"--port={self.port}",
            f"--temp-dir={self.short}",
            "--min-worker-port=0",
            "--max-worker-port=0",
        )
        for _ in range(600):
            with socket.socket() as trial:
                if trial.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            time.sleep(0.1)
        raise AssertionError((self.folder / "node0.log").read_text())

    def board(self) -> subprocess.Popen[bytes]:
        """A node with the resource of a board."""
        return self.start(f"--address={self.address}", '--resources={"jetson_nano": 1}')

    def stop(self) -> None:
        """End every node."""
        for node in reversed(self.nodes):
            lose(node)
        shutil.rmtree(self.short, ignore_errors=True)


def lose(node: subprocess.Popen[bytes]) -> None:
    """kill -9 a node with everything that runs on it."""
    import psutil

    try:
        every = [*psutil.Process(node.pid).children(recursive=True), psutil.Process(node.pid)]
    except psutil.NoSuchProcess:
        return
    for process in every:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    node.wait()
