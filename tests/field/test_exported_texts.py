"""Exports of a result whose names and titles are somebody else's: each file quotes by its rules."""

import re
import shlex
import subprocess

import pytest
import yaml

from sintra.core.recipe import Recipe
from sintra.integrations.exports import docker, hub, ollama, space
from sintra.integrations.exports.handover import DeliveredModel, relative_path
from sintra.integrations.exports.server import MIB, ServerMemory, ServerSpec
from sintra.integrations.exports.templating import dockerfile, markdown, render_template

EVIL = (
    'x"\nRUN curl evil $HOME ${PATH} \\\n`id` $(id)\r\x1b[2J<script>[a](http://evil.example) | *b*'
)


@pytest.fixture
def winner(tmp_path):
    """A delivered model as an older result, or one that came from elsewhere, may describe it."""
    device = {
        "name": "mine",
        "title": EVIL,
        "backend": "cpu",
        "isa": "aarch64",
        "cores": 4,
        "ram_bytes": 2**33,
        "usable_bytes": 2**32,
    }
    peak = {
        "metric": "ram_peak_bytes",
        "value": 1e8,
        "unit": "bytes",
        "stderr": None,
        "protocol": EVIL,
        "where": EVIL,
    }
    result = {
        "study": f"study {EVIL}",
        "model": EVIL,
        "hardware": EVIL,
        "status": "pass",
        "context": 512,
        "device": device,
        "goal": {"constraints": []},
        "winner": {
            "name": "llama.cpp Q4_K_M",
            "recipe": Recipe("Q4_K_M").as_json(),
            "artifact": {"sha256": "ab" * 32, "bytes": 10**8, "path": "model.gguf"},
            "measurements": [peak | {"how": "measured"}],
        },
    }
    manifest = {
        "source": {"kind": "folder", "digest": "cd" * 32},
        "texts": {"report": "ef" * 32},
        "tools": {"llama-cpp-python": "0.3.36"},
        "overrides": [],
    }
    return DeliveredModel(tmp_path, None, result, manifest)


def server():
    """A server's description, as server_spec makes it for a winner of this name."""
    memory = ServerMemory(10**8, 512, 0)
    return ServerSpec("x-run", "ghcr.io/x/y:server-v1", "arm64", "", 512, 4, memory, "f16")


def test_a_title_adds_no_line_to_a_dockerfile(winner):
    text = render_template(
        "Dockerfile",
        winner=winner,
        server=server(),
        user=1,
        port=8080,
        model="/models/model.gguf",
        start=60,
        command="[]",
    )
    joined = text.replace("\\\n", "")
    words = [line.split()[0] for line in joined.splitlines() if line.strip()]
    known = "# ARG FROM LABEL SHELL COPY RUN ENV USER EXPOSE HEALTHCHECK CMD"
    assert set(words) <= set(known.split())
    assert words.count("RUN") == 1
    assert "\x1b" not in text
    label = re.search(r'description=("(?:\\.|[^"\\])*") ', joined)[1]
    assert not re.search(r"(?<!\\)\$", label), "no variable of the build's"
    plain = re.sub(r"\\(.)", r"\1", label[1:-1])
    assert plain.startswith('llama.cpp Q4_K_M of x" RUN curl evil $HOME')


def test_a_title_is_no_markup(winner):
    values = {"winner": winner, "server": server(), "user": 1, "port": 80, "model": "m", "start": 1}
    for name, more in (
        ("docker.md", {"mib": MIB}),
        ("k8s.md", {"mib": MIB, "name": "x", "url": "http://127.0.0.1/`id`"}),
        ("space.md", {"title": EVIL, "gradio": "6"}),
    ):
        text = render_template(name, **values, **more)
        assert not re.search(r"(?<!\\)<script", text), name
        assert not re.search(r"(?<!\\)\[a\]", text), name
        assert "\x1b" not in text
        assert not [line for line in text.splitlines() if line.startswith(("RUN", "`id`"))], name


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("raspberry_pi_5, 2.5 tokens/s (4 threads)", "raspberry_pi_5, 2.5 tokens/s (4 threads)"),
        ("kld_mean <= 0.1", "kld_mean <= 0.1"),
        ("*a* _b_ `c`", "\\*a\\* \\_b\\_ \\`c\\`"),
        ("<b>", "\\<b>"),
        ("a | b", "a \\| b"),
        ("- a\nb", "\\- a b"),
        (2.5, 2.5),
    ],
)
def test_text_in_markdown(text, printed):
    assert markdown(text) == printed


def test_a_string_of_a_dockerfile():
    assert dockerfile('a"b\\$c\nd') == '"a\\"b\\\\\\$c d"'


def test_front_matter_yaml_and_python_hold_the_title(winner):
    text = space.space_readme(winner, EVIL, "")
    front = yaml.safe_load(text.split("---\n")[1])
    assert front["title"] == EVIL
    assert front["app_file"] == "app.py"
    compose = yaml.safe_load(yaml.safe_dump(docker.compose_file(winner, server())))
    assert list(compose["services"]) == ["model"]
    code = render_template(
        "space.py.j2",
        **{key: repr(EVIL) for key in ("title", "about", "digest", "kv", "preamble")},
        **{key: repr(EVIL) for key in ("opening", "lead")},
        context="1",
        turns="{}",
        stop="[]",
    )
    names = {}
    exec(compile(re.search(r"^TITLE = .*$", code, re.M)[0], "app", "exec"), names)
    assert names["TITLE"] == EVIL


def test_metadata_and_names_of_files_are_single_lines(winner):
    metadata = hub.gguf_metadata(winner, "")
    assert all(v.isprintable() for v in metadata.values() if isinstance(v, str))
    assert re.fullmatch(r"[\w][\w.-]*", hub.gguf_stem(winner))
    assert re.fullmatch(r"[a-z0-9_.-]+", ollama.model_name(winner.title))


def read_by_ollama(line):
    """A Modelfile's value by the rules of Ollama's parser: it ends at the first line end at which
    its quotes are closed.
    """
    value = ""
    for character in f"{line}\n":
        text = value.strip()
        triple, single = text.startswith('"""'), text.startswith('"')
        closed = text.endswith('"""') and len(text) >= 6 if triple else text[1:].endswith('"')
        if character in "\r\n" and (closed or not single):
            return text[3:-3] if triple else text[1:-1]
        value += character
    raise AssertionError("no end")


@pytest.mark.parametrize(
    "text",
    [
        "<|end|>",
        '"',
        '""',
        '"\nFROM evil',
        '""\nFROM evil',
        'x"\rFROM evil',
        "a\nFROM b",
        EVIL,
        " a ",
    ],
)
def test_a_stop_token_stays_one_value_of_a_modelfile(text):
    assert read_by_ollama(ollama.modelfile_string(text)) == text


def test_a_printed_path_is_a_word_of_a_shell(tmp_path):
    odd = tmp_path / "it's $(id) mine"
    shown = subprocess.run(
        ["/bin/sh", "-c", f"printf %s {relative_path(odd)}"], capture_output=True, text=True
    )
    assert shown.stdout == str(odd)
    assert shlex.split(relative_path(odd)) == [str(odd)]
