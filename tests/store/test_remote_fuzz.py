"""What others may have written, at random: entries and rounds are refused or can do no harm."""

import json
import random

import pytest

from sintra.core.artifact import Artifact
from sintra.core.canonical import canonical, sha256
from sintra.core.recipe import variant_slug
from sintra.store.remote.objects import ENTRY_NAME
from sintra.store.remote.shared_entries import (
    RemoteDataError,
    parse_shared_entry,
    shared_outcome,
)
from sintra.study.round_checks import check_round
from sintra.study.round_files import Round

INPUTS = 20_000
ODD = [
    None,
    True,
    -1,
    1.5,
    1e400,
    float("nan"),
    "",
    "..",
    "../x",
    "/x",
    "a/../b",
    "a" * 2000,
    "\ud800",
    "\x00",
    "\x1b[2J",
    "ü",
    [],
    {},
    [[]],
    {"path": "x"},
    10**30,
    "C:\\x",
    "a//b",
    ".",
    "a/.",
    "\u202e",
    "llm",
    "Q4_K",
    "kind",
]
ACTION = {"schema": 1, "stage": "made", "params": {}, "inputs": {}}
KEY = sha256(canonical(ACTION))
GOOD = {
    "key": KEY,
    "action": ACTION,
    "stage": "made",
    "step": "made:0",
    "wall_s": 1.0,
    "peak_rss": 5,
    "made": "2026-01-01T00:00:00Z",
    "files": [
        {"path": "f", "size": 1, "sha256": "a" * 64},
        {"path": "d/g", "size": 2, "sha256": "b" * 64},
    ],
}
RECIPE = {
    "type": "Q4_K_M",
    "importance": True,
    "drop": [1],
    "tensors": [[".*", "Q4_K"]],
    "rounding": "nearest",
    "kv": "f16",
}
ROUND = {
    "round": 1,
    "stop": None,
    "proposals": [{"recipe": RECIPE, "why": "x", "author": "solver", "level": "search"}],
}


def changed(draw, value):
    """A value with something else somewhere in it."""
    if draw.random() < 0.15:
        return draw.choice(ODD)
    if isinstance(value, dict):
        value = dict(value)
        if value and draw.random() < 0.15:
            value.pop(draw.choice(list(value)))
        if draw.random() < 0.1:
            value[draw.choice(["failure", "hmac", "x", "files"])] = draw.choice(
                [*ODD, {"kind": "refused", "message": "m"}]
            )
        for name in draw.sample(sorted(value), min(1, len(value))):
            value[name] = changed(draw, value[name])
        return value
    if isinstance(value, list) and value:
        at = draw.randrange(len(value))
        return [changed(draw, v) if i == at else v for i, v in enumerate(value)]
    return draw.choice(ODD)


def damaged(draw, raw):
    """Bytes with a few others in them."""
    raw = bytearray(raw)
    for _ in range(draw.randrange(1, 4)):
        raw[draw.randrange(len(raw))] = draw.randrange(256)
    return bytes(raw)


def test_entries():
    draw, believed = random.Random(0), 0
    for _ in range(INPUTS):
        raw = json.dumps(changed(draw, GOOD)).encode()
        raw = damaged(draw, raw) if draw.random() < 0.2 else raw
        try:
            entry = parse_shared_entry(raw, KEY, b"k" * 16 if draw.random() < 0.05 else None)
        except RemoteDataError:
            continue
        believed += 1
        found = shared_outcome(entry)
        for file in found.files if isinstance(found, Artifact) else ():
            assert not file.path.startswith("/")
            assert not {"..", ".", ""} & set(file.path.split("/"))
        assert all(c.isprintable() for c in entry["step"])
    assert 0 < believed < INPUTS


def test_rounds():
    draw, believed = random.Random(1), 0
    for _ in range(INPUTS):
        given = changed(draw, ROUND)
        try:
            check_round(given, 1)
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
        believed += 1
        for proposal in Round.of_json(given).proposals:
            assert "/" not in variant_slug(proposal.recipe)
            assert all(isinstance(n, int) for n in proposal.recipe.drop)
    assert 0 < believed < INPUTS


@pytest.mark.parametrize(
    "name",
    [
        f"ac/aa/{'a' * 64}",
        f"ac/ab/{'a' * 64}.json",
        f"ac/aa/../{'a' * 64}.json",
        f"ac/aa/{'A' * 64}.json",
        f"ac/aa/{'a' * 63}.json",
        f"x/ac/aa/{'a' * 64}.json",
        f"ac/aa/{'a' * 64}.json\n",
        f"cas/aa/{'a' * 64}",
        "",
        "ac/aa/" + "٣" * 64 + ".json",
    ],
)
def test_names_that_are_no_entries(name):
    assert not ENTRY_NAME.fullmatch(name)
    assert ENTRY_NAME.fullmatch(f"ac/aa/{'a' * 64}.json")[2] == "a" * 64
