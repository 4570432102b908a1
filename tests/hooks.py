"""A real HTTP server that keeps what it is sent, and plugins as folders on PYTHONPATH."""

import json
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


@dataclass
class Got:
    """A request."""

    path: str
    headers: dict
    body: bytes

    @property
    def json(self):
        return json.loads(self.body)


@dataclass
class Hooks:
    """The server. answers: path -> list of (status, headers) given in turn, the last again and
    again; hold: answers wait for release.
    """

    got: list = field(default_factory=list)
    answers: dict = field(default_factory=dict)
    release: threading.Event = field(default_factory=threading.Event)
    url: str = ""

    def of(self, path):
        """What came at an address."""
        return [g for g in self.got if g.path == path]

    def wait(self, path, count=1):
        """Until that many have come; listeners outlive their study."""
        until = time.monotonic() + 120
        while len(self.of(path)) < count and time.monotonic() < until:
            time.sleep(0.05)
        return self.of(path)


def serve():
    """Start one; returns it with the function that stops it."""
    hooks = Hooks()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            hooks.got.append(Got(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            if self.path == "/hold":
                hooks.release.wait()
            given = hooks.answers.get(self.path, [(204, {})])
            status, headers = given.pop(0) if len(given) > 1 else given[0]
            self.send_response(status)
            for name, value in {"Content-Length": "0", **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hooks.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def stop():
        hooks.release.set()
        server.shutdown()

    return hooks, stop


def plugin(folder: Path, name: str, code: str, entries: dict) -> Path:
    """An installed distribution in a folder (for PYTHONPATH): one module, and entry points as
    {group: {name: object}}.
    """
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / f"{name}.py").write_text(code)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    text = "\n".join(
        f"[sintra.{g}]\n" + "\n".join(f"{k} = {v}" for k, v in e.items())
        for g, e in entries.items()
    )
    (info / "entry_points.txt").write_text(text + "\n")
    return folder
