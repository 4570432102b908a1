"""Ollama: a Modelfile and the blob by its SHA-256, then `create` through its API or its binary.

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
from dataclasses import replace
from pathlib import Path
from typing import NotRequired, TypedDict

from sintra.core.errors import Transient, UserError
from sintra.core.kv_cache import PLAIN
from sintra.formats.gguf.chat_template import ROLES, ChatFormat, read_chat_format
from sintra.integrations.exports.handover import (
    open_delivered,
    print_template_note,
    relative_path,
)
from sintra.store.files import link_or_copy
from sintra.store.store import Store

OLLAMA_KV = ("f16", "q8_0", "q4_0")  # values of OLLAMA_KV_CACHE_TYPE
TIMEOUT_S = 600  # of a request: Ollama reads the whole model


class Parameters(TypedDict):
    """Parameters of a model of Ollama's."""

    num_ctx: int  # context, tokens
    stop: list[str]  # texts that end an answer


class CreateRequest(TypedDict):
    """The body of POST /api/create."""

    model: str  # its new name
    files: dict[str, str]  # file name -> "sha256:<hex>" of a blob that the server has
    parameters: Parameters
    template: NotRequired[str]  # in Go's template language


def export(folder: Path, store: Store) -> None:
    """Write <folder>/ollama and create the model where an Ollama is at hand."""
    winner = open_delivered(folder, store, "Ollama")
    chat, name = expressible(read_chat_format(winner.gguf)), model_name(winner.title)
    out = write_folder(folder / "ollama", winner.gguf, winner.digest, chat, winner.context)
    winner.print_goal_note()
    print_template_note(chat, "the Modelfile has no TEMPLATE")
    if note := cache_note(winner.recipe.kv):
        print(note)
    if host := os.environ.get("OLLAMA_HOST"):
        create_by_api(host, name, out, winner.digest, chat, winner.context)
        print(f"created {name}; run it: ollama run {name}")
    elif shutil.which("ollama"):
        create_by_binary(name, out)
        print(f"created {name}; run it: ollama run {name}")
    else:
        path = relative_path(out)
        print(f"wrote {path}; where Ollama is: cd {path} && ollama create {name} -f Modelfile")


def cache_note(kv: str) -> str:
    """Return how Ollama is to run a KV cache, or that it can't; "" for the usual one.

    Its server has one type for keys and values, for all models.
    """
    if kv == PLAIN:
        return ""
    if kv in OLLAMA_KV:
        return f"note: start Ollama with OLLAMA_FLASH_ATTENTION=1 OLLAMA_KV_CACHE_TYPE={kv}"
    return (
        f"note: Ollama has no KV cache of {kv} ({', '.join(OLLAMA_KV)}): it takes more memory "
        "there than was estimated; llama-server has it"
    )


def expressible(chat: ChatFormat) -> ChatFormat:
    """Return a chat format without turns where a Modelfile can't hold them: it has no escape for
    three quotes in a row.
    """
    if chat.turns and '"""' in go_template(chat):
        return replace(chat, turns=None, reason='it holds """, which a Modelfile can\'t express')
    return chat


def model_name(text: str) -> str:
    """Turn a text into a name that Ollama takes.

    That is lower case, at most 80 characters of letters, digits, `_`, `-` and `.`.
    """
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-.")[:80] or "sintra"


def write_folder(out: Path, model: Path, digest: str, chat: ChatFormat, context: int) -> Path:
    """Write Modelfile, model.gguf and blobs/sha256-<hex>, the last two being one file."""
    shutil.rmtree(out, ignore_errors=True)
    (out / "blobs").mkdir(parents=True)
    for target in (out / "model.gguf", out / "blobs" / f"sha256-{digest}"):
        link_or_copy(model, target)
    (out / "Modelfile").write_text(modelfile_text(chat, context))
    return out


def modelfile_text(chat: ChatFormat, context: int) -> str:
    """Return the text of a Modelfile. context: of the server, tokens."""
    lines = ["FROM ./model.gguf", f"PARAMETER num_ctx {context}"]
    lines += [f"PARAMETER stop {modelfile_string(text)}" for text in chat.stop]
    if chat.turns:
        lines.append(f"TEMPLATE {modelfile_string(go_template(chat))}")
    return "\n".join(lines) + "\n"


def modelfile_string(text: str) -> str:
    """Write a text as a Modelfile's string.

    Raises UserError for three quotes in a row: Ollama has no escape for them.
    """
    if '"""' in text:
        raise UserError('the chat template holds """, which a Modelfile can\'t express')
    return f'"""{text}"""' if '"' in text or "\n" in text else f'"{text}"'


def go_template(chat: ChatFormat) -> str:
    """Write the chat template in Go's language.

    It is what comes first where no system message does, a range over the messages, then the
    opening of the answer.
    """
    assert chat.turns is not None
    cases = []
    for number, role in enumerate(ROLES):
        before, after = go_turn_start(chat, role), go_literal(chat.turns[role][1])
        test = "if" if number == 0 else "else if"
        cases.append(f'{{{{ {test} eq .Role "{role}" }}}}{before}{{{{ .Content }}}}{after}')
    opening = go_literal(chat.opening)
    head = ""
    if chat.preamble:
        first = '{{ if ne (index .Messages 0).Role "system" }}'
        head = f"{first}{go_literal(chat.preamble)}{{{{ end }}}}"
    loop = "{{ range $i, $_ := .Messages }}" if chat.lead else "{{ range .Messages }}"
    return head + loop + "".join(cases) + "{{ end }}{{ end }}" + opening


def go_turn_start(chat: ChatFormat, role: str) -> str:
    """Write what stands before a role's content in Go's language.

    Begin of text that the runtime puts first itself is left out of the conversation's first turn.
    """
    assert chat.turns is not None
    before = chat.turns[role][0]
    if not (chat.lead and chat.opens_first(role) and before.startswith(chat.lead)):
        return go_literal(before)
    lead, rest = go_literal(chat.lead), go_literal(before.removeprefix(chat.lead))
    return f"{{{{ if $i }}}}{lead}{{{{ end }}}}{rest}"


def go_literal(text: str) -> str:
    """Write plain text inside a Go template, where opening braces would start an action.

    So would one at the end with the braces that follow.
    """
    return re.sub(r"\{\{|\{$", lambda found: f'{{{{ "{found[0]}" }}}}', text)


def create_by_binary(name: str, out: Path) -> None:
    """Create the model with the ollama program. Raises Transient where that fails."""
    process = subprocess.run(["ollama", "create", name, "-f", "Modelfile"], cwd=out, check=False)
    if process.returncode:
        raise Transient(
            f"`ollama create {name}` failed (exit {process.returncode}); the folder {out} is "
            "complete"
        )


def create_by_api(
    host: str, name: str, out: Path, digest: str, chat: ChatFormat, context: int
) -> None:
    """Upload the blob unless the server has it, then create the model.

    host: as in OLLAMA_HOST, with or without http://; context: of the server, tokens. Raises
    Transient with the server's own words.
    """
    server = (host if "://" in host else f"http://{host}").rstrip("/")
    try:
        upload_blob(server, out / "model.gguf", digest)
        request_creation(server, create_request(name, digest, chat, context))
    except urllib.error.HTTPError as error:
        raise Transient(
            f"Ollama answers {error.code}: {error.read().decode(errors='replace').strip()}"
        ) from None
    except urllib.error.URLError as error:
        raise Transient(
            f"no Ollama answers at OLLAMA_HOST: {error.reason}; the folder {out} is complete"
        ) from None


def create_request(name: str, digest: str, chat: ChatFormat, context: int) -> CreateRequest:
    """Return the body of POST /api/create. context: of the server, tokens."""
    body: CreateRequest = {
        "model": name,
        "files": {"model.gguf": f"sha256:{digest}"},
        "parameters": {"num_ctx": context, "stop": list(chat.stop)},
    }
    if chat.turns:
        body["template"] = go_template(chat)
    return body


def upload_blob(server: str, path: Path, digest: str) -> None:
    """Upload a file by its SHA-256 unless the server has it. Raises urllib's errors."""
    url = f"{server}/api/blobs/sha256:{digest}"
    if has_blob(url):
        return
    with path.open("rb") as data:
        length = {"Content-Length": str(path.stat().st_size)}
        response_text(urllib.request.Request(url, data=data, method="POST", headers=length))


def has_blob(url: str) -> bool:
    """Ask the server whether it has the blob at this address. Raises urllib's errors."""
    try:
        response_text(urllib.request.Request(url, method="HEAD"))
    except urllib.error.HTTPError as error:
        if error.code == 404:
            return False
        raise
    return True


def request_creation(server: str, body: CreateRequest) -> None:
    """Have the server create a model. Raises Transient where it refuses, and urllib's errors."""
    data = json.dumps(body).encode()
    url = f"{server}/api/create"
    for line in response_text(urllib.request.Request(url, data, method="POST")).splitlines():
        status = json.loads(line)
        if "error" in status:
            raise Transient(f"Ollama refuses {body['model']}: {status['error']}")


def response_text(request: urllib.request.Request) -> str:
    """Send a request and return the response's text. Raises urllib's errors."""
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        return str(response.read().decode())
