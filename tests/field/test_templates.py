"""Chat templates as models have them: rendered in a child with limits, taken apart or said to be
none; who adds begin of text, and what ends a turn, from a folder to the exports.
"""

import json
import shutil
from dataclasses import replace

import pytest
from stage_lab import Lab

from sintra.core.errors import UserError
from sintra.core.stage import Context
from sintra.formats.chat.renderer import TemplateSource
from sintra.formats.chat.turns import read_template
from sintra.formats.gguf.chat_template import ChatFormat, read_chat_format, split_template
from sintra.formats.gguf.header import read_gguf_header
from sintra.formats.gguf.layout import read_layout
from sintra.formats.gguf.mapped import open_tensors
from sintra.formats.gguf.metadata_edit import copy_with_keys
from sintra.formats.runtime.llama_cpp import STOP_IDS_KEY, LlamaModel
from sintra.integrations.exports.handover import print_template_note
from sintra.integrations.exports.ollama import expressible, go_literal, modelfile_text
from sintra.stages import ab, convert
from sintra.stages.turn_ends import complete_metadata

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] "
    "+ '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
GENERATION = (
    "{% for m in messages %}{% if m.role == 'assistant' %}{{ '<|im_start|>assistant\n' }}"
    "{% generation %}{{ m.content + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}{% else %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BARS = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content + '</s>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
BREAK = BARS.replace("{{ '<|' +", "{% if not m.content %}{% break %}{% endif %}{{ '<|' +", 1)
CONTINUE = BARS.replace("{{ '<|' +", "{% if not m.content %}{% continue %}{% endif %}{{ '<|' +", 1)
SLOW = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
CHATML_TURN = ("<|im_start|>user\n", "<|im_end|>\n")
BARS_TURN = ("<|user|>", "</s>")


@pytest.mark.parametrize(
    ("template", "turn"),
    [
        (CHATML, CHATML_TURN),
        ("{{ bos_token }}" + CHATML, CHATML_TURN),
        (GENERATION, CHATML_TURN),
        (BARS, BARS_TURN),
        (BREAK, BARS_TURN),
        (CONTINUE, BARS_TURN),
        ("{{ strftime_now('%Y') }}" + CHATML, CHATML_TURN),
        (CHATML.replace("message['content']", "message['content'] | trim"), CHATML_TURN),
        ("{% set ns = namespace(n=0) %}{% set ns.n = 1 %}" + BARS, BARS_TURN),
    ],
)
def test_templates_with_the_tags_of_hugging_face_are_taken_apart(template, turn):
    assert split_template(template, "<s>", "</s>").turns["user"] == turn


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{% for m in messages %}{{ m.content }", "TemplateSyntaxError"),
        ("{{ messages[0].content + 1 }}", "TypeError"),
        ("{{ 1 / 0 }}" + CHATML, "ZeroDivisionError"),
        ("{{ messages[0].content | nosuch }}", "nosuch"),
        ("{% for i in range(100000000) %}{% endfor %}", "Range too big"),
        (SLOW + CHATML, "takes more than"),
        ("{{ 'a' * 9000000000 }}", "MemoryError"),
        ("{{ messages.__class__.__mro__ }}{{ ''.__class__.__subclasses__() }}", "SecurityError"),
        (
            "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}" + BARS,
            "no",
        ),
        ("{% for m in messages %}{{ m.content | tojson }}{% endfor %}", "drops or changes"),
        ("{% for m in messages %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endfor %}", ""),
        ("\x1b]0;{% nonsense %}", "nonsense"),
    ],
)
def test_whatever_goes_wrong_is_no_template_in_a_line(template, reason):
    reading = read_template(TemplateSource(template, "<s>", "</s>"), adds_bos=True)
    assert reading.split.turns is None
    assert reason in reading.reason
    assert reading.reason.isprintable()
    assert len(reading.reason) < 250


def test_a_template_writes_no_file_and_sees_no_environment(tmp_path):
    for text in (
        "{{ self._TemplateReference__context.__class__ }}",
        f"{{{{ cycler.__init__.__globals__.os.system('touch {tmp_path}/x') }}}}",
    ):
        assert read_template(TemplateSource(text, "", ""), False).split.turns is None
    assert list(tmp_path.iterdir()) == []


def talk(*roles):
    return [{"role": r, "content": f"{r} {i}"} for i, r in enumerate(roles)]


def chat_of(template, bos, adds_bos):
    reading = read_template(TemplateSource(template, bos, "</s>"), adds_bos)
    assert reading.split.turns, reading.reason
    return ChatFormat(*reading.split, ("</s>",), 512, reading.lead, reading.reason)


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize("roles", [("user",), ("system", "user"), ("user", "assistant", "user")])
@pytest.mark.parametrize(
    ("template", "bos"),
    [
        (CHATML, "<s>"),
        ("{{ bos_token }}" + CHATML, "<s>"),
        (CHATML, "<|im_start|>"),  # SmolLM2: begin of text is the turns' start
        ("{{ bos_token }}" + CHATML, "<|im_start|>"),
        (BARS.replace("{{ '<|'", "{{ bos_token + '<|'"), "<s>"),  # before every turn
    ],
)
def test_begin_of_text_is_there_once_whoever_adds_it(template, bos, roles, adds_bos):
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    whole = (
        ImmutableSandboxedEnvironment()
        .from_string(template)
        .render(messages=talk(*roles), bos_token=bos, add_generation_prompt=True)
    )
    text = chat_of(template, bos, adds_bos).text(talk(*roles))
    assert text == (whole.removeprefix(bos) if adds_bos else whole)


def test_a_modelfile_leaves_out_the_begin_of_text_of_the_first_turn_only():
    text = modelfile_text(chat_of(CHATML, "<|im_start|>", True), 512)
    first = "{{ if $i }}<|im_start|>{{ end }}user\n{{ .Content }}<|im_end|>\n"
    assert first in text
    assert "{{ range $i, $_ := .Messages }}" in text
    kept = modelfile_text(chat_of(CHATML, "<|im_start|>", False), 512)
    assert '{{ if eq .Role "system" }}<|im_start|>system' in kept


def test_braces_at_an_edge_start_no_action():
    assert go_literal("a{{b}}{") == 'a{{ "{{" }}b}}{{ "{" }}'


def test_where_no_template_is_written_that_is_said(capsys):
    none = ChatFormat(None, "", "", ("</s>",), 512, reason="it fails: TypeError")
    print_template_note(none, "the Modelfile has no TEMPLATE")
    assert capsys.readouterr().out == (
        "note: the Modelfile has no TEMPLATE: no chat template of plain turns (it fails: "
        "TypeError)\n"
    )
    quoted = replace(chat_of(BARS, "<s>", True), preamble='"""')
    assert "Modelfile can't express" in expressible(quoted).reason
    print_template_note(replace(chat_of(BARS, "<s>", True), dated=True), "")
    assert "stays that of today" in capsys.readouterr().out


@pytest.fixture(scope="module")
def lab(tmp_path_factory, tiny, toolchain):
    return Lab(tmp_path_factory.mktemp("lab"), tiny, toolchain)


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of the tiny model whose files may be edited."""
    return shutil.copytree(tiny, tmp_path / "model")


def edit(path, **values):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def token_texts(gguf, *texts):
    model = LlamaModel(gguf, 0, 1, vocab_only=True)
    try:
        return [int(model.tokenize(text, special=True)[-1]) for text in texts]
    finally:
        model.close()


def test_what_ends_a_turn_anywhere_in_the_folder_ends_an_answer(lab, folder):
    """By generation_config.json and by the template; in llama.cpp, in ours, in every variant."""
    template = BARS.replace("'</s>'", "('<|user|>' if m.role == 'assistant' else '</s>')")
    edit(folder / "tokenizer_config.json", chat_template=template)
    edit(folder / "generation_config.json", eos_token_id=[2, 300, 301, 9999])
    assert not read_gguf_header(lab.gguf / "model.gguf").metadata.get(STOP_IDS_KEY)
    gguf = lab.run(convert, {"type": "f16"}, model=folder, toolchain=lab.tools)
    (end,) = token_texts(gguf / "model.gguf", "<|user|>")
    quantized = lab.quantize("Q8_0", base=gguf)
    for path in (gguf / "model.gguf", quantized / "model.gguf"):
        model = LlamaModel(path, 32, 1)
        assert [t for t in range(model.vocabulary) if model.is_end(t)] == sorted([2, end, 300, 301])
        known = model.lib.llama_vocab_is_eog
        assert known(model.vocab, 300), "llama.cpp's own programs stop there, too"
        texts = [model.token_text(t) for t in (2, 300, 301, end)]
        model.close()
        assert set(read_chat_format(path).stop) == set(texts)
    same = open_tensors(lab.gguf / "model.gguf"), open_tensors(gguf / "model.gguf")
    assert [t.name for t in same[0].tensors] == [t.name for t in same[1].tensors]
    assert all((a.data == b.data).all() for a, b in zip(*(f.tensors for f in same), strict=True))


@pytest.fixture
def completed(lab, tmp_path):
    """Gives the tiny model's GGUF other chat templates and completes it, without the converter."""

    def complete(**templates):
        gguf = tmp_path / "model.gguf"
        put = {f"tokenizer.{key}": text for key, text in templates.items()}
        copy_with_keys(lab.gguf / "model.gguf", gguf, put, ["tokenizer.chat_template"])
        complete_metadata(Context({}, {}, tmp_path, {}, tmp_path, 1), gguf, None)
        return gguf

    return complete


def test_a_turns_end_that_is_no_token_is_a_text_that_stops(completed):
    gguf = completed(chat_template=BARS.replace("'</s>'", "'<|end of words|>\n'"))
    assert read_chat_format(gguf).stop == ("</s>", "<|end of words|>")


def test_a_template_that_renders_nothing_is_left_out_of_the_file_and_said(completed, capfd):
    gguf = completed(chat_template="{% for m in messages %}{{ m.content }")
    assert "> no chat template: it fails: TemplateSyntaxError" in capfd.readouterr().err
    assert "tokenizer.chat_template" not in read_gguf_header(gguf).metadata
    chat = read_chat_format(gguf)
    assert chat.turns is None
    assert "TemplateSyntaxError" in chat.reason
    assert read_layout(gguf)["tensors"]
    with pytest.raises(UserError, match=r"TemplateSyntaxError.*leave chat=true out"):
        ab.as_chat_turn(gguf, "Hi")


def test_templates_by_name(completed):
    tool = {"chat_template.tool_use": "{{ tools }}" + BARS}
    alone = read_chat_format(completed(**tool))
    assert (alone.turns, alone.reason) == (None, "none of them is the default (tool_use)")
    broken = {"chat_template.rag": "{% if %}"}
    gguf = completed(chat_template=BARS, **tool, **broken)
    assert read_chat_format(gguf).turns
    names = {k for k in read_gguf_header(gguf).metadata if "chat_template" in k}
    assert names == {"tokenizer.chat_template", "tokenizer.chat_template.tool_use"}


def test_metadata_are_replaced_and_the_rest_is_the_same(lab, tmp_path):
    source, out = lab.gguf / "model.gguf", tmp_path / "out.gguf"
    put = {"general.name": "a longer name than before", "a.list": (1, -2), "a.number": 7}
    copy_with_keys(source, out, put, ["tokenizer.chat_template"])
    old, new = read_gguf_header(source), read_gguf_header(out)
    assert new.text("general.name") == put["general.name"]
    assert new.metadata["a.number"] == 7
    assert set(new.metadata) == set(old.metadata) - {"tokenizer.chat_template"} | set(put)
    for a, b in zip(open_tensors(source).tensors, open_tensors(out).tensors, strict=True):
        assert (a.name, a.shape) == (b.name, b.shape)
        assert (a.data == b.data).all()
    model = LlamaModel(out, 32, 1)
    model.close()


def test_a_files_own_words_reach_no_terminal_unescaped(lab, tmp_path):
    put = {"sintra.chat_template_left_out": "\x1b[2Jgone"}
    gguf = tmp_path / "model.gguf"
    copy_with_keys(lab.gguf / "model.gguf", gguf, put, ["tokenizer.chat_template"])
    assert read_chat_format(gguf).reason == "?[2Jgone"
