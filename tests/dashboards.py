"""A dashboard that runs, as a process of its own on loopback."""

import contextlib
import re
import signal
import socket
import subprocess
import sys
import time


class Dashboard:
    """One that runs, by its process, its address and the token that it printed."""

    def __init__(self, project, *args, **env):
        command = [sys.executable, "-m", "doit", "dashboard", "--port", "0", *args]
        given = {
            k: v for k, v in project.env(**env).items() if not k.startswith("PYTEST")
        }  # NiceGUI's own tests look for it
        self.process = subprocess.Popen(
            command,
            cwd=project.root,
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.line = self.process.stdout.readline()
        found = re.search(r"(http://\S+)/\?token=(\S+)", self.line)
        assert found, self.process.stderr.read()
        self.url, self.token = found.groups()
        port = int(re.search(r":(\d+)", self.url.removeprefix("http://"))[1])
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                return
            time.sleep(0.1)
        raise AssertionError("the dashboard doesn't listen")

    def stop(self):
        """End it; its terminal shows no traceback."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        assert "Traceback" not in self.process.communicate(timeout=60)[1]

    def enter(self, page, path="/"):
        """Open a page as a person does who follows the printed address."""
        page.goto(f"{self.url}{path}?token={self.token}")
        assert page.url == f"{self.url}{path}", "the token is not left in the address"
