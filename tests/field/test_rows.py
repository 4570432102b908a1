"""Tasks and their rows as people have them: taken, or refused in a line before the study."""

import gzip
import json

import pytest
from conftest import ROOT

from sintra.cli.commands.pages import read_prompts
from sintra.config.tasks import files as tasks
from sintra.core.errors import UserError

ROWS = [{"q": "one", "a": "1"}, {"q": "two", "a": "2"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
ANSWER = "kind: answer\ndata: rows.jsonl\nprompt: 'Q: {{q}} A:'\nanswer: a\n"
CHOICE = "kind: choice\ndata: rows.jsonl\nprompt: '{{q}}'\nchoices: c\nanswer: a\n"


def put(folder, data, text=ANSWER):
    (folder / "rows.jsonl").write_bytes(data if isinstance(data, bytes) else data.encode())
    (folder / "mine.yaml").write_text(text, encoding="utf-8")
    return folder / "mine.yaml"


@pytest.mark.parametrize(
    "data",
    [
        LINES,
        LINES.replace("\n", "\r\n"),
        LINES.rstrip("\n"),
        LINES.encode("utf-8-sig"),
        *(
            json.dumps({"q": f"a{mark}b", "a": "1"}, ensure_ascii=False) + "\n"
            for mark in ("\u2028", "\u2029", "\x85", "\x7f")
        ),
        '{"q": "a\\u000bb\\u001cc", "a": ["1", "one"]}\n\n \n',
    ],
)
def test_valid_rows_are_taken(tmp_path, data):
    tasks.check_data(put(tmp_path, data))
    rows = tasks.read_rows(tmp_path / "rows.jsonl")
    assert set(rows[0]) == {"q", "a"}
    assert len(rows) == (2 if rows[0]["q"] == "one" else 1)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (json.dumps(ROWS), "line 1: not a JSON object; JSON Lines has one per line"),
        (json.dumps(ROWS[0], indent=1), "line 1: .*an object has to stand in one line"),
        (LINES.replace("}\n", "},\n"), "line 1: .*a comma behind it"),
        (LINES.encode("utf-16"), "isn't UTF-8 but UTF-16"),
        (gzip.compress(LINES.encode(), mtime=0), "is compressed"),
        ('{"q": "x", "a": NaN}\n', "NaN is not a number in JSON"),
        ('{"q": "x", "q": "y", "a": "1"}\n', "'q' stands there twice"),
        ('{"q": null, "a": "1"}\n', "row 1: 'q' is null"),
        ('{"q": "x", "a": 1}\n{"q": "y", "a": ["1"]}\n', "row 2: 'a' is .*one kind per column"),
        ('{"q": "x", "a": 1}\n{"q": "y", "a": "z"}\n', "row 2: 'a' is 'z'"),
        ('{"q": "x", "a": 123456789012345678901234567890}\n', "row 1: 'a' .*numbers as text"),
        ("[" * 100_000, "line 1: nested too deeply"),
    ],
)
def test_rows_that_can_not_be_are_said_with_their_line(tmp_path, data, says):
    with pytest.raises(UserError, match=says) as caught:
        tasks.check_data(put(tmp_path, data))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "choices", "says"),
    [
        (7, ["a", "b"], "row 2: the answer is '7'; .*from 0 to 1"),
        (-1, ["a", "b"], "row 2: the answer is '-1'"),
        (2, ["a", "b"], "row 2: the answer is '2'"),
        (True, ["a", "b"], "row 2: the answer is 'True'"),
        (0, [], "row 2: 'c' is not a list of two choices"),
        (0, "['a', 'b']", "row 2: 'c' is not a list of two choices"),
    ],
)
def test_an_answer_is_one_of_the_choices(tmp_path, answer, choices, says):
    rows = [{"q": "x", "c": ["a", "b"], "a": 1}, {"q": "y", "c": choices, "a": answer}]
    with pytest.raises(UserError, match=says):
        tasks.check_data(put(tmp_path, "\n".join(map(json.dumps, rows)), CHOICE))


def test_choices_by_number_by_text_and_the_same_for_all(tmp_path):
    for answers in ([0, 1], ["a", "b"], [[0, 1], [1]]):
        rows = [{"q": "x", "c": ["a", "b"], "a": a} for a in answers]
        tasks.check_data(put(tmp_path, "\n".join(map(json.dumps, rows)), CHOICE))
    tasks.check_data(
        put(tmp_path, "\n".join(map(json.dumps, rows)), CHOICE.replace("r: a", "r: 1"))
    )
    for name in ("fable", "fable_mini"):
        if (path := ROOT / "models" / "tasks" / f"{name}.yaml").is_file():
            tasks.check_data(path)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("max_tokens: lots", "max_tokens is 'lots', not a whole number from 1 on"),
        ("max_tokens: 0", "max_tokens is 0"),
        ("max_tokens: true", "max_tokens is True"),
        ("max_tokens: 1.5", "max_tokens is 1.5"),
        ("stop: 5", "stop is 5, not a text or a list of texts"),
        ("stop: [a, 5]", "not a text or a list of texts"),
        ("tests: yes", r"tests is True, which is not a text: in quotes it is one \(tests: '...'\)"),
    ],
)
def test_wrong_kinds_in_a_task_are_said(tmp_path, line, says):
    with pytest.raises(UserError, match=says):
        tasks.read_task(put(tmp_path, LINES, ANSWER + line))


def test_an_answer_of_a_task_is_a_text(tmp_path):
    for word in ("yes", "1", "1.5"):
        with pytest.raises(UserError, match=r"answer is .*in quotes it is one"):
            tasks.read_task(put(tmp_path, LINES, ANSWER.replace("answer: a", f"answer: {word}")))
    assert tasks.read_task(put(tmp_path, LINES, "\ufeff" + ANSWER))["kind"] == "answer"


def test_prompts_are_lines_that_end_at_a_newline_only(tmp_path):
    prompts = [f"one{mark}two" for mark in ("\u2028", "\x85", "\x0c")]
    (tmp_path / "p.txt").write_bytes(("\n".join(prompts) + "\n").encode("utf-8-sig"))
    rows = "\n".join(json.dumps({"prompt": p}, ensure_ascii=False) for p in prompts)
    (tmp_path / "p.jsonl").write_bytes(rows.encode("utf-8-sig"))
    for name in ("p.txt", "p.jsonl"):
        assert read_prompts(tmp_path, {"prompts": name}) == prompts
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n{"prompt": 5}\n')
    with pytest.raises(UserError, match="line 2: every line needs the form"):
        read_prompts(tmp_path, {"prompts": "p.jsonl"})
