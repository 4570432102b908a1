"""The hub path through huggingface_hub itself, against a loopback server that speaks the hub's
protocol.
"""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import QUICK

FIRST, SECOND = "1" * 40, "2" * 40


class Hub(ThreadingHTTPServer):
    """One repository, owner/tiny, with a branch main and a commit or two."""

    def __init__(self, folder):
        self.files = {p.name: p.read_bytes() for p in folder.iterdir()}
        self.main, self.gated, self.break_after, self.wrong_digest = FIRST, False, None, False
        self.sent, self.ranges = [], []
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def reply(self, code, body=b"", **headers):
        self.send_response(code)
        for name, value in {"Content_Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server, self.path.split("?")[0]
        if hub.gated:
            return self.reply(
                403,
                b"{}",
                X_Error_Code="GatedRepo",
                X_Error_Message="Access to model owner/tiny is restricted",
            )
        if path.startswith("/api/models/owner/tiny"):
            revision = path.rpartition("/revision/")[2] if "/revision/" in path else "main"
            commit = {"main": hub.main, FIRST: FIRST, SECOND: SECOND}.get(revision)
            if commit is None:
                return self.reply(404, b"{}", X_Error_Code="RevisionNotFound")
            rows = [self.sibling(n) for n in hub.files]
            return self.reply(
                200,
                json.dumps(
                    {"id": "owner/tiny", "modelId": "owner/tiny", "sha": commit, "siblings": rows}
                ).encode(),
            )
        if path.startswith("/owner/tiny/resolve/"):
            return self.resolve(*path.removeprefix("/owner/tiny/resolve/").split("/", 1))
        return self.reply(404, b"{}", X_Error_Code="RepoNotFound")

    def sibling(self, name):
        data = self.server.files[name]
        row = {"rfilename": name, "size": len(data), "blobId": hashlib.sha1(data).hexdigest()}
        if name.endswith(".safetensors"):
            digest = "0" * 64 if self.server.wrong_digest else hashlib.sha256(data).hexdigest()
            row["lfs"] = {"sha256": digest, "size": len(data), "pointerSize": 134}
        return row

    def resolve(self, commit, name):
        hub, data = self.server, self.server.files.get(name)
        if data is None:
            return self.reply(404, b"", X_Error_Code="EntryNotFound")
        tag = {
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X_Repo_Commit": commit,
            "Accept_Ranges": "bytes",
        }
        if self.command == "HEAD":
            return self.reply(200, b"", **tag | {"Content_Length": str(len(data))})
        start = 0
        if "Range" in self.headers:
            start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0])
            hub.ranges.append((name, start))
        hub.sent.append((commit, name))
        part = data[start:]
        if hub.break_after and name.endswith(".safetensors"):
            if not start:  # the first answer breaks off, later ones never come
                self.send_response(200)
                self.send_header("Content-Length", str(len(part)))
                self.end_headers()
                self.wfile.write(part[: hub.break_after])
                self.wfile.flush()
            self.close_connection = True
            self.connection.close()
            return None
        extra = {"Content_Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        return self.reply(206 if start else 200, part, **tag, **extra)


@pytest.fixture
def hub(tiny):
    found = Hub(tiny)
    found.daemon_threads = True
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


ARGS = (
    "optimize",
    "hardware=jetson_nano",
    "model=owner/tiny",
    *QUICK,
    "planner.types=[Q8_0]",
    "max_rounds=1",
    "goal.max_kld=9",
)
ARGS = tuple(a for a in ARGS if not a.startswith("planner.types=[Q8_0,"))


def test_pinned_to_its_commit(project, hub):
    hub.files["pytorch_model.bin"] = b"pickle"
    done = project.doit(*ARGS, HF_ENDPOINT=hub.url)
    assert done.returncode == 0, done.stderr
    assert f"pinned  owner/tiny at {FIRST}" in done.stderr
    assert {c for c, _ in hub.sent} == {FIRST}
    assert "pytorch_model.bin" not in {n for _, n in hub.sent}
    manifest = json.loads((project.root / "outputs" / "latest" / "manifest.json").read_text())
    assert manifest["source"] == {"kind": "hub", "digest": FIRST}
    pin = json.loads((project.root / "cache/pins/owner--tiny@main.json").read_text())
    assert "512" in str(pin), "the model's own context, which it is served with"
    assert project.result()["context"] == 512

    hub.main = SECOND
    again = project.doit(*ARGS, HF_ENDPOINT=hub.url)
    assert again.returncode == 0
    assert project.built(again) == [], "a moved branch doesn't move a pinned study"

    offline = project.doit(*ARGS)
    assert offline.returncode == 0, "no network is needed for what is there"
    assert project.built(offline) == []

    fresh = project.doit(*ARGS, "refresh=true", HF_ENDPOINT=hub.url)
    assert f"pinned  owner/tiny at {SECOND}" in fresh.stderr
    assert project.built(fresh) == ["fetch:owner-tiny"], (
        "equal files at the new commit leave the rest alone"
    )


def test_no_network_and_nothing_cached(project):
    done = project.doit(*ARGS)
    assert done.returncode == 1
    assert "the hub can't be reached to resolve owner/tiny" in done.stderr
    assert [
        x for x in done.stderr.splitlines() if x.startswith("sintra: ")
    ] == done.stderr.splitlines()[-1:]


def test_gated(project, hub):
    hub.gated = True
    done = project.doit(*ARGS, HF_ENDPOINT=hub.url)
    assert done.returncode == 2
    assert "owner/tiny is gated: accept its terms on the hub, then set HF_TOKEN" in done.stderr


def test_unknown_revision(project, hub):
    done = project.doit(
        *[a.replace("owner/tiny", "owner/tiny@v9") for a in ARGS], HF_ENDPOINT=hub.url
    )
    assert done.returncode == 2
    assert "no revision 'v9'" in done.stderr


def test_wrong_digest_is_never_used(project, hub):
    hub.wrong_digest = True
    done = project.doit(*ARGS, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "another SHA-256 than the hub names" in done.stderr
    hub.wrong_digest = False
    assert project.doit(*ARGS, HF_ENDPOINT=hub.url).returncode == 0


def test_a_broken_transfer_goes_on(project, hub):
    hub.break_after = 400_000
    done = project.doit(*ARGS, HF_ENDPOINT=hub.url)
    assert done.returncode == 1
    assert "broke off" in done.stderr
    hub.break_after, seen = None, len(hub.ranges)
    assert project.doit(*ARGS, HF_ENDPOINT=hub.url).returncode == 0
    resumed = [start for name, start in hub.ranges[seen:] if name == "model.safetensors"]
    assert resumed, "the second transfer starts where the first one stopped"
    assert resumed[0] >= 1 << 18
