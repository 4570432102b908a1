"""The words of what people read: every text of the code, the options, the metrics and the pages."""

import ast
import csv
import re

import pytest
from conftest import ROOT

from sintra.cli.commands.registry import all_commands
from sintra.cli.docs import messages
from sintra.core.metrics import METRICS

RULES = {
    "literary words": (
        r"\b(rivals?|worlds?|damage|damages|anew|foreseen|told|laid down|so far yes)\b"
    ),
    "British spelling": (
        r"\b(optim|minim|maxim|normal|initial|quant|recogn|general|summar|serial)is(e|es|ed|ing|ation)\b"
        r"|\b(colour|behaviour|licence|neighbour)s?\b"
    ),
    "is no ..., there is no option": (
        r"(?<![Tt]here )\b(is|are|was|were) no (?!longer\b|more\b)[a-z]"
        r"|\b[Tt]here is no (option|command|key|study|task|tensor)\b|\bwanted is\b"
    ),
    "per in units": (
        r"\b(bits?|bytes?|tokens?|seconds?|nats|calls?) an? "
        r"(weight|token|second|byte|row|block|layer|minute|window)\b"
    ),
}
NAMES = re.compile(
    r"goal\.optimise(=\{optimise\})?|doit surgery|surgery\.html|^sqlite3, where damage.*"
    r"|^optimise fit_memory .*"
)


def texts_of(tree):
    """(line, text) of every string in a module that is no docstring, values being {}."""
    skipped = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in node.values}
            parts = (p.value if isinstance(p, ast.Constant) else "{}" for p in node.values)
            yield node.lineno, "".join(map(str, parts))
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and id(node) not in skipped and " " in text.strip():
            yield node.lineno, text


def read_texts():
    """(where, text) of everything that a person may read."""
    for path in sorted((ROOT / "sintra").rglob("*.py")):
        for line, text in texts_of(ast.parse(path.read_text())):
            if " " in text.strip() and "_" not in text.split()[-1]:  # else: a list of names
                yield f"{path.relative_to(ROOT)}:{line}", text
    for path in sorted((ROOT / "sintra").rglob("*.html")):
        markup = r"\{%.*?%\}|\{\{.*?\}\}|<(style|script)\b.*?</\1>|<[^>]+>"
        yield path.name, re.sub(markup, " ", path.read_text(), flags=re.S)
    for message in messages.read_messages(ROOT / "sintra"):
        yield message.module, message.text
    for command in all_commands():
        for text in (command.summary, command.doc, *(o.help for o in command.options)):
            yield f"doit {command.name}", text
    with (ROOT / "sintra" / "config" / "option_docs.csv").open() as handle:
        for row in csv.reader(handle):
            yield f"option {row[0]}", row[-1]
    for metric in METRICS:
        for text in (metric.meaning, metric.label, metric.objective, metric.option_label):
            yield f"metric {metric.name}", text


@pytest.fixture(scope="module")
def texts():
    return list(read_texts())


@pytest.mark.parametrize("rule", RULES)
def test_texts_keep_to_plain_words(texts, rule):
    pattern = re.compile(RULES[rule])
    found = [
        f"{where}: {match[0]!r} in {text[:100]!r}"
        for where, text in texts
        if (match := pattern.search(NAMES.sub("", text)))
    ]
    assert found == []


def test_the_rules_find_what_they_forbid():
    wrong = ("a rival", "optimised", "5 is no number", "there is no option 'x'", "2 bits a weight")
    for text in wrong:
        assert any(re.search(rule, text) for rule in RULES.values()), text
    for text in ("there is no file", "it is no longer there", "a device", "bits per weight"):
        assert not any(re.search(rule, text) for rule in RULES.values()), text
