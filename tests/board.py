"""A real sshd on loopback as the board: an ordinary process with keys, ports and folders of its
own.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil

from sintra.config.options import DeviceConf

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def keygen(path: Path) -> str:
    """A new ed25519 key pair; its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)
    return path.with_suffix(".pub").read_text().strip()


class Sshd:
    """sshd with a home of its own for the board's files; data: a limit on the data segment of all
    that runs there, in bytes.
    """

    def __init__(self, root: Path, data: int | None = None) -> None:
        self.root, self.port, self.home, self.data = root, free_port(), root / "home", data
        self.home.mkdir(parents=True)
        self.public = keygen(root / "host")
        (root / "authorized_keys").write_text(keygen(root / "client") + "\n")
        self.known = root / "known_hosts"
        self.trust(self.public)
        lines = (
            "ListenAddress 127.0.0.1",
            f"Port {self.port}",
            f"HostKey {root / 'host'}",
            f"PidFile {root / 'pid'}",
            f"AuthorizedKeysFile {root / 'authorized_keys'}",
            "UsePAM no",
            "StrictModes no",
            "PermitRootLogin yes",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            "Subsystem sftp internal-sftp",
        )
        (root / "sshd_config").write_text("\n".join(lines) + "\n")
        self.start()

    def trust(self, public: str) -> None:
        """Make this the host key that the client knows."""
        self.known.write_text(f"[127.0.0.1]:{self.port} {' '.join(public.split()[:2])}\n")

    def start(self) -> None:
        """Listen."""
        Path("/run/sshd").mkdir(
            exist_ok=True
        )  # where Debian's sshd drops its rights; it refuses to start without

        def limited() -> None:
            if self.data:
                resource.setrlimit(resource.RLIMIT_DATA, (self.data, self.data))

        self.log = (self.root / "log").open("ab")
        command = [SSHD, "-D", "-e", "-f", str(self.root / "sshd_config")]
        self.process = subprocess.Popen(command, stderr=self.log, cwd=self.home, preexec_fn=limited)
        for _ in range(200):
            with (
                contextlib.suppress(OSError),
                socket.create_connection(("127.0.0.1", self.port), 1),
            ):
                return
            time.sleep(0.05)
        raise AssertionError((self.root / "log").read_text())

    def sessions(self) -> list[psutil.Process]:
        """Everything that sshd has started and that still runs."""
        return (
            psutil.Process(self.process.pid).children(recursive=True)
            if self.process.poll() is None
            else []
        )

    def hang_up(self) -> None:
        """Kill every open session, as a lost connection does; go on listening."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for child in psutil.Process(self.process.pid).children():
                child.kill()

    def stop(self) -> None:
        """End it and its sessions; what ran in them must end by itself."""
        self.hang_up()
        self.process.kill()
        self.process.wait()
        self.log.close()

    def overrides(self, **more: str) -> list[str]:
        """The options that lead here."""
        own = {
            "host": "127.0.0.1",
            "port": str(self.port),
            "key": str(self.root / "client"),
            "known_hosts": str(self.known),
            "folder": str(self.home / "sintra"),
            "python": sys.executable,
            "threads": "1",
        }
        return ["device=ssh", *(f"device.{k}={v}" for k, v in (own | more).items())]

    def options(self, **more: object) -> DeviceConf:
        """Return the options that lead here as the composed configuration has them."""
        own = {
            "name": "ssh",
            "host": "127.0.0.1",
            "port": self.port,
            "key": str(self.root / "client"),
            "threads": 1,
            "known_hosts": str(self.known),
            "folder": str(self.home / "sintra"),
            "python": sys.executable,
        }
        return DeviceConf(**(own | more))

    @property
    def blobs(self) -> Path:
        """Where the board keeps models."""
        return self.home / "sintra" / "blobs"


def runnable() -> bool:
    """Whether there is an sshd that this user can start."""
    return Path(SSHD).exists() and (os.geteuid() == 0 or os.access("/run/sshd", os.X_OK))
