"""Ollama: a folder with a Modelfile and the blob by its SHA-256, then `create` through its API or
its binary.

Lost templates are what Ollama's users complain of most: TEMPLATE comes from the model's own chat
template, the stop tokens and num_ctx from its metadata. The API's steps are those of Ollama's
documentation: HEAD and POST /api/blobs, POST /api/create.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from sintra.core.errors import Transient, UserError
from sintra.formats.gguf.chat_template import ROLES, Chat, read_chat
from sintra.integrations.exports.handover import near, opened
from sintra.store.files import link_or_copy
from sintra.store.store import Store

DEFAULT_CONTEXT = 4096


def export(folder: Path, store: Store) -> None:
    """Write <folder>/ollama and create the model where an Ollama is at hand."""
    given = opened(folder, store, "Ollama")
    model, digest = given.model, given.digest
    chat, name = read_chat(model), model_name(given.title)
    out = write_folder(folder / "ollama", model, digest, chat)
    given.warn()
    if os.environ.get("OLLAMA_HOST"):
        create(os.environ["OLLAMA_HOST"], name, out, digest, chat)
        print(f"created {name}; run it: ollama run {name}")
    elif shutil.which("ollama"):
        done = subprocess.run(["ollama", "create", name, "-f", "Modelfile"], cwd=out, check=False)
        if done.returncode:
            raise Transient(
                f"`ollama create {name}` failed (exit {done.returncode}); the folder {out} is "
                "complete"
            )
        print(f"created {name}; run it: ollama run {name}")
    else:
        print(
            f"wrote {near(out)}; where Ollama is: cd {near(out)} && ollama create {name} -f "
            "Modelfile"
        )


def model_name(text: str) -> str:
    """A valid Ollama name: lower case, at most 80 characters of letters, digits, `_`, `-` and `.`."""
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-.")[:80] or "sintra"


def write_folder(out: Path, model: Path, digest: str, chat: Chat) -> Path:
    """Modelfile, model.gguf and blobs/sha256-<hex>, the last two being one file."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "blobs").mkdir(parents=True)
    for target in (out / "model.gguf", out / "blobs" / f"sha256-{digest}"):
        link_or_copy(model, target)
    (out / "Modelfile").write_text(modelfile(chat))
    return out


def modelfile(chat: Chat) -> str:
    """The Modelfile's text."""
    lines = ["FROM ./model.gguf", f"PARAMETER num_ctx {min(chat.context, DEFAULT_CONTEXT)}"]
    lines += [f"PARAMETER stop {quoted(s)}" for s in chat.stop]
    if chat.turns:
        lines.append(f"TEMPLATE {quoted(go_template(chat))}")
    return "\n".join(lines) + "\n"


def quoted(text: str) -> str:
    """A Modelfile string. Ollama has no escape for three quotes in a row, so they are refused."""
    if '"""' in text:
        raise UserError('the chat template holds """, which a Modelfile can\'t express')
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'


def go_template(chat: Chat) -> str:
    """The chat template in Go's language: a range over the messages, then the opening of the
    answer.
    """
    assert chat.turns is not None
    cases = []
    for number, role in enumerate(ROLES):
        before, after = chat.turns[role]
        test = "if" if number == 0 else "else if"
        cases.append(
            f'{{{{ {test} eq .Role "{role}" }}}}{literal(before)}{{{{ .Content }}}}{literal(after)}'
        )
    return "{{ range .Messages }}" + "".join(cases) + "{{ end }}{{ end }}" + literal(chat.opening)


def literal(text: str) -> str:
    """Plain text inside a Go template: opening braces would start an action."""
    return text.replace("{{", '{{ "{{" }}')


def create(host: str, name: str, out: Path, digest: str, chat: Chat) -> None:
    """Upload the blob unless the server has it, then create the model. Raises Transient with the
    server's own words.
    """
    base = (host if "://" in host else f"http://{host}").rstrip("/")
    parameters = {"num_ctx": min(chat.context, DEFAULT_CONTEXT), "stop": list(chat.stop)}
    body: dict[str, Any] = {
        "model": name,
        "files": {"model.gguf": f"sha256:{digest}"},
        "parameters": parameters,
    }
    if chat.turns:
        body["template"] = go_template(chat)
    blob = f"{base}/api/blobs/sha256:{digest}"
    try:
        if not _known(blob):
            with (out / "model.gguf").open("rb") as data:
                size = str((out / "model.gguf").stat().st_size)
                _open(
                    urllib.request.Request(
                        blob, data=data, method="POST", headers={"Content-Length": size}
                    )
                )
        for line in _open(
            urllib.request.Request(f"{base}/api/create", json.dumps(body).encode(), method="POST")
        ).splitlines():
            answer = json.loads(line)
            if "error" in answer:
                raise Transient(f"Ollama refuses {name}: {answer['error']}")
    except urllib.error.HTTPError as error:
        raise Transient(
            f"Ollama answers {error.code}: {error.read().decode(errors='replace').strip()}"
        ) from None
    except urllib.error.URLError as error:
        raise Transient(
            f"no Ollama answers at OLLAMA_HOST: {error.reason}; the folder {out} is complete"
        ) from None


def _known(url: str) -> bool:
    try:
        _open(urllib.request.Request(url, method="HEAD"))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def _open(request: urllib.request.Request) -> str:
    with urllib.request.urlopen(request, timeout=600) as answer:
        return str(answer.read().decode())
