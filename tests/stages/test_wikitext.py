"""wikitext through huggingface_hub's own download, against a loopback server."""

import hashlib
import io
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import ROOT

from sintra.core.errors import Transient, UserError
from sintra.core.stage import Context
from sintra.stages import wikitext
from sintra.study.pinning import pin_wikitext
from sintra.study.workspace import open_workspace


def archive() -> bytes:
    """A small archive of the same layout."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_STORED) as out:
        for part in wikitext.PARTS:
            out.writestr(f"wikitext-2-raw/wiki.{part}.raw", f" = {part} = \n" * 2000)
    return data.getvalue()


class Server(ThreadingHTTPServer):
    """Sends the archive, and breaks off after some bytes where it is told to."""

    def __init__(self):
        self.data, self.break_after, self.asked = archive(), None, []
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        server = self.server
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").split("-")[0])
        server.asked.append((self.path, start))
        rest = server.data[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(rest)))
        self.send_header("Content-Range", f"bytes {start}-/{len(server.data)}")
        self.end_headers()
        self.wfile.write(rest[: server.break_after])


@pytest.fixture
def hub(monkeypatch):
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    from huggingface_hub import constants, file_download

    url = f"http://127.0.0.1:{server.server_port}"
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(file_download, "HUGGINGFACE_CO_URL_TEMPLATE", template, raising=False)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(wikitext, "SHA256", hashlib.sha256(server.data).hexdigest())
    monkeypatch.setattr(wikitext, "SIZE", len(server.data))
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def context(tmp_path, name, params=None, **inputs):
    out = tmp_path / name
    out.mkdir()
    return Context(params or {}, inputs, out, {}, tmp_path / "keep", 1)


def test_the_parts_come_from_the_pinned_archive(hub, tmp_path):
    wikitext.run(context(tmp_path, "archive"))
    path, start = hub.asked[0]
    assert (wikitext.COMMIT in path, path.startswith("/datasets/ggml-org/ci/"), start) == (
        True,
        True,
        0,
    )
    for part in wikitext.PARTS:
        wikitext.extract(context(tmp_path, part, {"part": part}, archive=tmp_path / "archive"))
        assert (tmp_path / part / "text.txt").read_text() == f" = {part} = \n" * 2000
    with pytest.raises(UserError, match=r"no wiki\.dev\.raw"):
        wikitext.extract(context(tmp_path, "dev", {"part": "dev"}, archive=tmp_path / "archive"))


def test_another_content_is_refused_and_asked_for_again(hub, tmp_path):
    good = hub.data
    hub.data = good[:-1] + b"x"
    with pytest.raises(Transient, match="another SHA-256"):
        wikitext.run(context(tmp_path, "one"))
    hub.data = good
    wikitext.run(context(tmp_path, "two"))
    assert hub.asked[-1][1] == 0, "from the start"


def test_a_study_names_the_parts(tmp_path):
    raw = ["model=fable", "texts=wikitext", f"store.path={tmp_path}"]
    graph = open_workspace(ROOT, raw).graph()
    steps = {role: graph.text(role) for role in ("calibration", "search", "report")}
    assert {r: s.params["part"] for r, s in steps.items()} == {
        "calibration": "train",
        "search": "valid",
        "report": "test",
    }
    assert len({id(s.inputs["archive"]) for s in steps.values()}) == 1, "one download"
    with pytest.raises(UserError, match="did you mean 'train'"):
        pin_wikitext("trian")
