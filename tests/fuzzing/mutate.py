"""Inputs from seeds by small edits; the same edits are drawn at random, by hypothesis or by
libFuzzer's bytes.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

KINDS = ("flip", "cut", "insert", "overwrite", "repeat", "swap", "drop", "number")
NUMBERS = (
    0,
    1,
    0x7F,
    0x80,
    0xFF,
    0xFFFF,
    1 << 31,
    (1 << 31) - 1,
    (1 << 32) - 1,
    1 << 63,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
LARGEST = 1 << 16


class Edit(NamedTuple):
    """kind: one of KINDS; at: where, from 0 to 1; token: an index into the target's words; value:
    any number.
    """

    kind: str
    at: float
    token: int
    value: int


def mutated(seed: bytes, edits: Sequence[Edit], words: Sequence[bytes]) -> bytes:
    """The seed after the edits."""
    data = bytearray(seed)
    for edit in edits:
        at = min(int(edit.at * (len(data) + 1)), len(data))
        word = words[edit.token % len(words)] if words else bytes([edit.value % 256])
        size = 1 + edit.value % 16
        if edit.kind == "flip" and data:
            data[at % len(data)] ^= 1 << edit.value % 8
        elif edit.kind == "cut":
            del data[at:]
        elif edit.kind == "insert":
            data[at:at] = word
        elif edit.kind == "overwrite":
            data[at : at + len(word)] = word
        elif edit.kind == "repeat":
            data[at:at] = bytes(data[at : at + size]) * min(edit.value % 300, LARGEST // size)
        elif edit.kind == "swap":
            data[at : at + 2 * size] = data[at + size : at + 2 * size] + data[at : at + size]
        elif edit.kind == "drop":
            del data[at : at + size]
        elif edit.kind == "number":
            data[at : at + 8] = NUMBERS[edit.value % len(NUMBERS)].to_bytes(8, "little")[
                : len(data[at : at + 8])
            ]
        del data[LARGEST:]
    return bytes(data)


def drawn(rng: random.Random) -> list[Edit]:
    """One to eight edits; few are likelier, so that much of an input stays what it was."""
    count = min(8, 1 + int(rng.expovariate(0.7)))
    return [
        Edit(rng.choice(KINDS), rng.random(), rng.randrange(1 << 16), rng.randrange(1 << 16))
        for _ in range(count)
    ]


def from_bytes(data: bytes) -> list[Edit]:
    """The edits that a fuzzer's bytes stand for, seven bytes each."""
    rows = [data[i : i + 7] for i in range(0, len(data) - 6, 7)][:16]
    return [
        Edit(
            KINDS[r[0] % len(KINDS)],
            int.from_bytes(r[1:3], "little") / 65536,
            int.from_bytes(r[3:5], "little"),
            int.from_bytes(r[5:7], "little"),
        )
        for r in rows
    ]
