"""The hub export: metadata, card, and an upload to a loopback server with the hub's documented
endpoints.
"""

import hashlib
import json
import threading
from base64 import b64decode
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import yaml

from sintra.core.errors import UserError
from sintra.integrations.exports import hub
from sintra.integrations.exports.handover import open_delivered
from sintra.store.store import Store


class Hub(ThreadingHTTPServer):
    """Repositories that can be made and committed to; large files arrive by their SHA-256."""

    def __init__(self):
        self.repos, self.files, self.blobs, self.tokens = {}, {}, {}, set()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def reply(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def body(self):
        return self.rfile.read(int(self.headers["Content-Length"]))

    def do_GET(self):
        if self.path.startswith("/api/models/owner/model"):
            return self.reply(
                200, {"id": "owner/model", "sha": "1" * 40, "siblings": [], "private": True}
            )
        return self.reply(404, {"error": "not found"})

    def do_PUT(self):
        data = self.body()
        digest = self.path.rpartition("/")[2]
        if hashlib.sha256(data).hexdigest() != digest:
            return self.reply(400, {"error": "digest"})
        self.server.blobs[digest] = data
        return self.reply(200, {})

    def do_POST(self):
        server, data = self.server, self.body()
        server.tokens.add(self.headers.get("Authorization"))
        if self.path == "/api/repos/create":
            server.repos["owner/model"] = json.loads(data)
            return self.reply(200, {"url": f"{server.url}/owner/model", "id": "owner/model"})
        if self.path == "/api/validate-yaml":
            front = yaml.safe_load(json.loads(data)["content"].split("---")[1])
            errors = [] if isinstance(front.get("license"), str) else [{"message": "license"}]
            return self.reply(200, {"errors": errors, "warnings": []})
        if "/preupload/" in self.path:
            files = json.loads(data)["files"]
            mode = {True: "lfs", False: "regular"}
            rows = [
                {
                    "path": f["path"],
                    "uploadMode": mode[f["path"].endswith(".gguf")],
                    "shouldIgnore": False,
                }
                for f in files
            ]
            return self.reply(200, {"files": rows})
        if self.path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(data)["objects"]
            return self.reply(
                200,
                {
                    "transfer": "basic",
                    "objects": [
                        o
                        | {
                            "authenticated": True,
                            "actions": {"upload": {"href": f"{server.url}/put/{o['oid']}"}},
                        }
                        for o in objects
                    ],
                },
            )
        if "/commit/" in self.path:
            for line in data.splitlines():
                item = json.loads(line)
                if item["key"] == "file":
                    server.files[item["value"]["path"]] = b64decode(item["value"]["content"])
                if item["key"] == "lfsFile":
                    server.files[item["value"]["path"]] = server.blobs[item["value"]["oid"]]
            return self.reply(
                200,
                {
                    "success": True,
                    "commitOid": "2" * 40,
                    "commitUrl": f"{server.url}/owner/model/commit/2",
                },
            )
        return self.reply(404, {"error": self.path})


@pytest.fixture
def server():
    found = Hub()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


@pytest.fixture(scope="module")
def out(finished):
    folder = (finished.root / "outputs" / "latest").resolve()
    hub.export(folder, Store(finished.root / "cache"), license="cc0-1.0")
    return folder / "hub"


def test_metadata_are_filled_in_and_the_model_is_the_same(out):
    from gguf import GGUFReader

    from sintra.formats.runtime.llama_cpp import open_model

    result = json.loads((out.parent / "result.json").read_text())
    made = next(out.glob("*.gguf"))
    reader = GGUFReader(made)
    found = {
        k: reader.get_field(k).contents()
        for k in reader.fields
        if k.startswith(("general.", "sintra."))
    }
    assert found["general.name"] == "fable_mini"
    assert found["general.license"] == "cc0-1.0"
    assert found["general.quantized_by"].startswith("Sintra ")
    assert json.loads(found["sintra.recipe"]) == result["winner"]["recipe"]
    assert found["sintra.measured.sha256"] == result["winner"]["artifact"]["sha256"]
    before = GGUFReader(out.parent / "model.gguf")
    assert {k for k in before.fields if not k.startswith("GGUF.")} <= set(reader.fields)
    ids = np.array([1, 300, 301, 302], dtype=np.int32)
    with open_model(made, 64, 1) as one, open_model(out.parent / "model.gguf", 64, 1) as two:
        assert (one.logits(ids, 0, 0) == two.logits(ids, 0, 0)).all()


def test_the_card_has_the_numbers_and_both_digests(out):
    from huggingface_hub import ModelCard

    card = ModelCard.load(out / "README.md")
    result = json.loads((out.parent / "result.json").read_text())
    measured = {m["metric"]: m["value"] for m in result["winner"]["measurements"]}
    said = {r.metric_type: r.metric_value for r in card.data.eval_results}
    assert said == {n: measured[n] for n in ("kld_mean", "same_top", "ppl_ratio")}
    assert (card.data.license, card.data.library_name, card.data.base_model) == (
        "cc0-1.0",
        "gguf",
        None,
    )
    digest = hashlib.sha256(next(out.glob("*.gguf")).read_bytes()).hexdigest()
    assert digest in card.text
    assert result["winner"]["artifact"]["sha256"] in card.text
    assert f"| kld_mean (nats) | {measured['kld_mean']:.6g} |" in card.text
    assert (out / "recipe.yaml").read_text() == (out.parent / "recipe.yaml").read_text()


def test_a_hub_model_is_named_as_the_base(out, finished):
    winner = open_delivered(out.parent, Store(finished.root / "cache"), "the test")
    winner.manifest.update(
        source={"kind": "hub", "digest": "1" * 40},
        overrides=["hardware=x", "model=owner/name@main"],
    )
    assert hub.base_repository(winner) == "owner/name"
    keys = hub.gguf_metadata(winner, "")
    assert keys["general.base_model.0.repo_url"] == "https://huggingface.co/owner/name"
    card = hub.model_card(winner, next(out.glob("*.gguf")), "")
    assert card.data.base_model == "owner/name"
    assert "base_model_relation: quantized" in str(card)
    assert "license" not in card.data.to_dict()


def test_upload_only_with_a_token(out, finished, server):
    missing = finished.doit("export_hub", "upload=owner/model", HF_TOKEN="", HF_ENDPOINT=server.url)
    assert (missing.returncode, server.repos) == (2, {})
    assert "needs HF_TOKEN" in missing.stderr
    sent = finished.doit(
        "export_hub",
        "upload=owner/model",
        "license=cc0-1.0",
        HF_TOKEN="hf_secret",
        HF_ENDPOINT=server.url,
        HF_HUB_DISABLE_XET="1",
    )
    assert sent.returncode == 0, sent.stderr
    assert "hf_secret" not in sent.stdout + sent.stderr
    assert server.repos["owner/model"]["visibility"] == "private"
    assert server.tokens == {"Bearer hf_secret"}
    assert set(server.files) == {p.name for p in out.iterdir()}
    name = next(out.glob("*.gguf")).name
    assert server.files[name] == (out / name).read_bytes()
    gone = finished.doit(
        "export_hub", "upload=owner/model", HF_TOKEN="hf_secret", HF_ENDPOINT="http://127.0.0.1:9"
    )
    assert gone.returncode == 1
    assert "the hub didn't take owner/model" in gone.stderr


def test_mistakes(out, finished):
    store = Store(finished.root / "cache")
    with pytest.raises(UserError, match="is not a repository"):
        hub.export(out.parent, store, upload="model")
    with pytest.raises(UserError, match="isn't an identifier"):
        hub.export(out.parent, store, license="My License")
