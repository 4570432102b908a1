"""The child process in which others' templates are rendered: what it can't do, what it says is
data, and chat templates find in it what transformers gives them.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sintra.core.jail.confine import missing_parts
from sintra.core.rendering import jailed, worker
from sintra.core.rendering.chat_texts import LONGEST, OPEN_END
from sintra.core.rendering.worker import RenderProcess
from sintra.formats.chat.renderer import (
    Conversation,
    TemplateFailed,
    TemplateSource,
    render_all,
)

TALK = [
    {"role": "system", "content": 'Be <short> & "kind".'},
    {"role": "user", "content": " Who left? "},
    {"role": "assistant", "content": "Kaia  "},
]


def order(template):
    return {"do": "chat", "template": template, "bos": "<s>", "eos": "</s>"}


ROW = {"messages": TALK, "opening": True, "left_open": False}


@pytest.fixture
def process():
    made = RenderProcess()
    yield made
    made.close()


def pid_of_child(before):
    """The one child process that wasn't there before."""
    (new,) = set(children()) - set(before)
    return new


def children():
    return [p.pid for p in psutil.Process().children()]


def test_a_child_stays_for_one_text_and_another_gets_a_new_one(process):
    before = children()
    assert process.ask(order("a"), [ROW, ROW], 2).rows == [{"answer": "a"}] * 2
    first = pid_of_child(before)
    process.ask(order("a"), [ROW], 2)
    assert pid_of_child(before) == first
    process.ask(order("b"), [ROW], 2)
    second = pid_of_child(before)
    assert second != first
    os.kill(second, signal.SIGKILL)
    assert process.ask(order("b"), [ROW], 2).rows == [{"answer": "b"}]


@pytest.mark.skipif(bool(missing_parts()), reason=missing_parts())
def test_it_has_no_right_left(process):
    before = children()
    process.ask(order("a"), [], 2)
    lines = Path(f"/proc/{pid_of_child(before)}/status").read_text().splitlines()
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert "0" not in status["Uid"].split()
    assert int(status["CapEff"], 16) in (0, 1 << 2)  # to read Python where root alone may


def test_what_does_not_end_is_ended_and_the_next_is_answered(process):
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    replies = process.ask(order("{% if messages %}" + slow + "{% endif %}"), [ROW], 0.2)
    assert (replies.rows, replies.late) == ([], True)
    assert process.ask(order("a"), [ROW], 2).rows == [{"answer": "a"}]


HOSTILE = {
    "says nothing": ("time.sleep(99)", "isn't done in time"),
    "says no JSON": ("say('{')", "another notation"),
    "nests deep": ("say('[' * 99999)", "another notation"),
    "says something else": ("say('{\"text\": 1}')", "another notation"),
    "gives no reason in words": ("say('{\"refused\": [1]}')", "another notation"),
    "answers too much": ("say('{\"answer\": 1}\\n' * 3)", "more than it was asked"),
    "never stops": ("[os.write(1, b'x' * 65536) for _ in range(9999)]", "texts are longer than"),
    "closes its pipe": ("os.close(1); time.sleep(99)", "closes its pipe"),
    "hears nothing": ("os.close(0); time.sleep(99)", "isn't done in time"),
    "ends": ("os._exit(3)", "its process ended with 3"),
}


@pytest.mark.parametrize("does", HOSTILE)
def test_what_it_says_is_data(process, monkeypatch, does):
    """A child that has left its sandbox and doesn't read on, either: more is sent than fits."""
    code, reason = HOSTILE[does]
    say = "import os, time\ndef say(text): os.write(1, text.encode() + b'\\n')\n"
    monkeypatch.setattr(jailed, "START", f"{say}say('{{\"ready\": true}}')\nos.read(0, 1)\n{code}")
    monkeypatch.setattr(jailed, "MOST_BYTES", 1 << 20)
    monkeypatch.setattr(jailed, "ENDED_S", 0.5)
    monkeypatch.setattr(worker, "WALL_S", 0.3 if "nothing" in does else 30)
    replies = process.ask(order("x" * (1 << 20)), [ROW], 0)
    assert reason in replies.lost
    monkeypatch.undo()
    assert process.ask(order("a"), [ROW], 2).rows == [{"answer": "a"}]


def test_a_child_that_does_not_start_is_said(process, monkeypatch):
    monkeypatch.setattr(jailed, "START", "raise SystemExit(1)")
    assert "doesn't start" in process.ask(order("a"), [ROW], 2).lost


def test_nothing_heavy_is_loaded_in_it():
    code = (
        "import sys, sintra.core.rendering.child as child; child.import_jinja(); "
        "print({'torch', 'transformers', 'numpy', 'huggingface_hub'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


BARS = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>\n{% endfor %}"
SAME = (
    BARS,
    "{{ bos_token }}"
    + BARS
    + "{% if add_generation_prompt %}<|assistant|>{% endif %}{{ eos_token }}",
    "  {% for m in messages %}\n  {{- m.content | trim }}\n  {%- endfor %}\n",
    "{% for m in messages %}{% if loop.index > 1 %}{% break %}{% endif %}{{ m }}{% endfor %}",
    "{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m }}{% endfor %}",
    "{% for m in messages %}{% generation %}{% set x = 1 %}{{ m.content }}{% endgeneration %}"
    "{{ x }}{% endfor %}",
    "{% generation %}",
    "{{ messages | tojson }}{{ messages[0] | tojson(indent=2, ensure_ascii=true) }}",
    "{{ {'b': '<é>', 'a': 1} | tojson(sort_keys=true, separators=(',', ':')) }}",
    "{{ raise_exception('no <system> here') }}",
    "{{ strftime_now('%Y-%m') }}",
    "{{ dict(a=1) }}{{ dict.fromkeys(['a']) }}{{ dict([('b', 2)]) }}",
    "{{ dict.__class__ }}{{ dict.mro() }}",
    "{% set ns = namespace(n=0, self=2) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{% endfor %}{{ ns.n }}{{ ns.self }}",
    "{% set ns = namespace(_x=0) %}",
    "{% set ns = namespace() %}{% set ns._x = 1 %}",
    "{% set ns = namespace({'__class__': 1}) %}{{ ns.n }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update(role='x') }}",
    "{{ tools is none }}{{ documents is none }}{{ nosuch }}{{ messages[0].nosuch is defined }}",
    "{{ nosuch.deeper }}",
    "{{ ''.__class__.__mro__ }}{{ range.__self__ }}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ lipsum(1, false, 1, 1) | length }}{{ cycler('a').next() }}{{ joiner('-')() }}",
    "{{ range(100001) }}",
    "{{ '%s' | format(1) }}{{ '{0.__class__}'.format(1) }}",
    "{% macro turn(m) %}{{ m.role | upper }}{% endmacro %}{{ turn(messages[0]) }}",
    "{% include 'x' %}",
    "{% do messages %}",
    "{% trans %}x{% endtrans %}",
    "{% if %}",
)


def theirs(template, left_open):
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        texts, _ = render_jinja_template(
            [TALK],
            chat_template=template,
            continue_final_message=left_open,
            add_generation_prompt=not left_open,
            bos_token="<s>",
            eos_token="</s>",
        )
    except Exception as error:
        return type(error).__name__
    return texts[0]


@pytest.fixture
def many(monkeypatch):
    """One child for many templates, which saves time."""
    monkeypatch.setattr(worker.SHARED, "texts_a_child", 1000)


def ours(template, left_open):
    conversation = Conversation(TALK, not left_open, left_open)
    try:
        (text,) = render_all(TemplateSource(template, "<s>", "</s>"), [conversation])
    except TemplateFailed as error:
        text = error
    return str(text).partition(":")[0] if isinstance(text, TemplateFailed) else text


@pytest.mark.parametrize("template", SAME)
def test_a_chat_template_finds_what_transformers_gives_it(many, template):
    assert ours(template, False) == theirs(template, False)


@pytest.mark.parametrize(
    "template",
    [
        BARS,
        BARS.replace("m.content", "m.content | trim"),
        "{% for m in messages %}{{ m.content }}{% endfor %}",
        "{{ messages[-1].content | replace('_', '') }}",
        "{{ messages[0].content }}",
    ],
)
def test_a_message_that_goes_on_ends_where_transformers_ends_it(many, template):
    assert ours(template, True) == theirs(template, True)


def test_a_text_has_a_longest(many):
    assert OPEN_END.endswith(" ")
    said = render_all(TemplateSource("{{ 'a' * 9000000 }}", "", ""), [Conversation(TALK)])[0]
    assert "9000000 characters from 3 messages" in str(said)
    assert LONGEST < 9_000_000
