"""The Ollama export against a loopback server with the documented endpoints, which refuses what
Ollama refuses.
"""

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from conftest import QUICK

from sintra.core.errors import UserError
from sintra.formats.gguf.chat_template import NO_TURNS, ChatFormat, split_template
from sintra.integrations.exports.ollama import model_name, modelfile_string, modelfile_text

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% "
    "endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


class Ollama(ThreadingHTTPServer):
    """Blobs by digest, and models made of them."""

    def __init__(self):
        self.blobs, self.models, self.uploads = {}, {}, 0
        super().__init__(("127.0.0.1", 0), Handler)


class Handler(BaseHTTPRequestHandler):
    def answer(self, code, body=b""):
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.answer(200 if self.path.removeprefix("/api/blobs/") in self.server.blobs else 404)

    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/blobs/"):
            digest = self.path.removeprefix("/api/blobs/")
            if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
                return self.answer(400, b'{"error": "digest does not match"}')
            self.server.blobs[digest] = data
            self.server.uploads += 1
            return self.answer(201)
        body = json.loads(data)
        lines = [{"status": "reading model metadata"}, {"status": "success"}]
        for name, digest in body["files"].items():
            if (
                name.startswith("/")
                or digest not in self.server.blobs
                or self.server.blobs[digest][:4] != b"GGUF"
            ):
                lines = [{"error": "invalid model"}]
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,79}", body["model"]):
            lines = [{"error": "invalid model name"}]
        if "error" not in lines[-1]:
            self.server.models[body["model"]] = body
        return self.answer(200, "\n".join(map(json.dumps, lines)).encode())


@pytest.fixture
def server():
    found = Ollama()
    threading.Thread(target=found.serve_forever, daemon=True).start()
    yield found
    found.shutdown()


def test_export(project, tiny, server):
    assert "run `doit optimize" in project.doit("export_ollama").stderr
    assert (
        project.doit(
            "optimize", "hardware=jetson_nano", f"model={tiny}", *QUICK, "max_rounds=1"
        ).returncode
        == 0
    )
    plain = project.doit("export_ollama", OLLAMA_HOST="", PATH="/nonexistent")
    assert plain.returncode == 0, plain.stderr
    assert "ollama create tiny-jetson_nano -f Modelfile" in plain.stdout
    out = project.root / "outputs" / "latest" / "ollama"
    digest = project.result()["winner"]["artifact"]["sha256"]
    blob = out / "blobs" / f"sha256-{digest}"
    assert hashlib.sha256(blob.read_bytes()).hexdigest() == digest
    lines = (out / "Modelfile").read_text().splitlines()
    assert lines[:3] == ["FROM ./model.gguf", "PARAMETER num_ctx 512", 'PARAMETER stop "</s>"']
    assert lines[3].startswith(
        'TEMPLATE """{{ range .Messages }}{{ if eq .Role "system" }}<|system|>{{ .Content }}</s>'
    )

    host = f"127.0.0.1:{server.server_port}"
    for _ in range(2):
        sent = project.doit("export_ollama", OLLAMA_HOST=host)
        assert sent.returncode == 0, sent.stderr
    assert server.uploads == 1, "a blob that the server has is not sent again"
    made = server.models["tiny-jetson_nano"]
    assert made["parameters"] == {"num_ctx": 512, "stop": ["</s>"]}
    assert made["files"] == {"model.gguf": f"sha256:{digest}"}

    gone = project.doit("export_ollama", OLLAMA_HOST="127.0.0.1:9")
    assert gone.returncode == 1
    assert "no Ollama answers at OLLAMA_HOST" in gone.stderr


def test_a_refusal_is_said_in_the_servers_words(project, tiny, server):
    assert (
        project.doit(
            "optimize", "hardware=jetson_nano", f"model={tiny}", *QUICK, "max_rounds=1"
        ).returncode
        == 0
    )
    Handler.do_HEAD, kept = (lambda self: self.answer(200)), Handler.do_HEAD
    try:
        done = project.doit("export_ollama", OLLAMA_HOST=f"127.0.0.1:{server.server_port}")
    finally:
        Handler.do_HEAD = kept
    assert done.returncode == 1
    assert "Ollama refuses tiny-jetson_nano: invalid model" in done.stderr


def test_templates_are_taken_apart_and_proved():
    turns, opening, preamble = split_template(CHATML, "<s>", "</s>")
    assert preamble == ""
    assert turns["user"] == ("<|im_start|>user\n", "<|im_end|>\n")
    assert turns["system"] == ("<|im_start|>system\n", "<|im_end|>\n")
    assert opening == "<|im_start|>assistant\n"
    assert split_template("{{ bos_token }}" + CHATML, "<s>", "</s>")[0] == turns, (
        "the runtime adds begin of text itself"
    )
    counted = "{{ messages | length }} {{ messages[-1].content }}"
    assert split_template(counted, "", "") == NO_TURNS
    assert split_template("{{ raise_exception('no') }}", "", "") == NO_TURNS
    assert split_template(None, "", "") == NO_TURNS


def test_a_system_prompt_of_the_templates_own_is_kept():
    """As SmolLM2's: where a conversation has none, and whose turns begin with begin of text, which
    its runtime doesn't add.
    """
    own = (
        "{% if loop.first and m.role != 'system' %}"
        "<|im_start|>system\nBe kind<|im_end|>\n{% endif %}"
    )
    template = CHATML.replace(
        "%}{{ '<|im_start|>' + m.role", f"%}}{own}{{{{ '<|im_start|>' + m.role"
    )
    split = split_template(template, "<|im_start|>", "<|im_end|>", adds_bos=False)
    assert split.turns["user"] == ("<|im_start|>user\n", "<|im_end|>\n")
    assert split.turns["system"] == ("<|im_start|>system\n", "<|im_end|>\n")
    assert split.preamble == "<|im_start|>system\nBe kind<|im_end|>\n"
    text = modelfile_text(ChatFormat(*split, ("<|im_end|>",), 8192), 4096)
    assert '{{ if ne (index .Messages 0).Role "system" }}<|im_start|>system\nBe kind' in text


def test_modelfile_quoting():
    assert modelfile_string("</s>") == '"</s>"'
    assert modelfile_string("a\nb") == '"""a\nb"""'
    with pytest.raises(UserError, match="can't express"):
        modelfile_string('say """')
    assert "TEMPLATE" not in modelfile_text(ChatFormat(None, "", "", ("</s>",), 8192), 4096)
    assert "num_ctx 6000" in modelfile_text(ChatFormat(None, "", "", (), 131072), 6000)
    assert model_name("My Model/7B--Jetson Nano!") == "my-model-7b--jetson-nano"
