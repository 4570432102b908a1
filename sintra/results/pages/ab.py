"""The A/B comparison: for a terminal, and as a page."""

from __future__ import annotations

import textwrap
from itertools import zip_longest
from typing import Any

from sintra.results.pages.page import render

LEVELS = ((0.01, "k0"), (0.1, "k1"), (0.5, "k2"), (float("inf"), "k3"))  # nats, upper ends
PARTING = "»"


def page(found: dict[str, Any], title: str, original: str, variant: str) -> str:
    """The page of an `ab` artifact's ab.json."""
    answers = [_answer(a) for a in found["answers"]]
    legend = [
        ("k0", "under 0.01 nats"),
        ("k1", "under 0.1"),
        ("k2", "under 0.5"),
        ("k3", "0.5 and more"),
    ]
    return render(
        "ab.html",
        title=title,
        original=original,
        variant=variant,
        answers=answers,
        legend=legend,
        tokens=found["tokens"],
        **total(found),
    )


def total(found: dict[str, Any]) -> dict[str, Any]:
    """{"same": identical answers, "kld": mean nats a token along the original's answers, "count":
    those tokens}.
    """
    every = [k for a in found["answers"] for k in a["kld"]]
    return {
        "same": sum(a["parted"] is None for a in found["answers"]),
        "kld": sum(every) / len(every),
        "count": len(every),
    }


def _answer(a: dict[str, Any]) -> dict[str, Any]:
    parted, kld = a["parted"], a["kld"]
    most = max(range(len(kld)), key=kld.__getitem__)
    left = [
        _token(t, i, parted, k) for i, (t, k) in enumerate(zip(a["original"], kld, strict=True))
    ]
    right = [_token(t, i, parted, None) for i, t in enumerate(a["variant"])]
    return {
        "prompt": a["prompt"],
        "same": parted is None,
        "parted": parted,
        "mean": sum(kld) / len(kld),
        "most": kld[most],
        "most_at": most,
        "original": {"name": "Original", "tokens": left},
        "variant": {"name": "Compressed", "tokens": right},
    }


def _token(text: str, at: int, parted: int | None, kld: float | None) -> dict[str, Any]:
    level = next(name for most, name in LEVELS if (kld or 0.0) < most)
    return {
        "text": text,
        "parts": at == parted,
        "after": parted is not None and at >= parted,
        "kld": kld,
        "level": level,
        "title": None if kld is None else f"{kld:.5f} nats",
    }


def text(found: dict[str, Any], width: int) -> str:
    """For a terminal: two columns; `»` stands where the answers part."""
    column = max(20, (width - 3) // 2)
    lines = [f"{'original':<{column}} | compressed"]
    for number, a in enumerate(found["answers"], 1):
        where = (
            "identical" if a["parted"] is None else f"parts after {a['parted']} tokens ({PARTING})"
        )
        lines += ["", *textwrap.wrap(f"{number}. {_flat(a['prompt'])}", width)]
        lines.append(
            f"   {where}; KLD along the original {sum(a['kld']) / len(a['kld']):.5f} nats a "
            f"token, max {max(a['kld']):.5f}"
        )
        sides = [
            textwrap.wrap(_flat(_marked(a[side], a["parted"])), column)
            for side in ("original", "variant")
        ]
        lines += [
            f"{left:<{column}} | {right}".rstrip()
            for left, right in zip_longest(*sides, fillvalue="")
        ]
    sums = total(found)
    lines += [
        "",
        f"{sums['same']} of {len(found['answers'])} answers identical; mean KLD {sums['kld']:.5f} "
        f"nats a token along the original's {sums['count']} tokens",
    ]
    return "\n".join(lines)


def _marked(pieces: list[str], parted: int | None) -> str:
    return (
        "".join(pieces)
        if parted is None
        else "".join(pieces[:parted]) + PARTING + "".join(pieces[parted:])
    )


def _flat(text: str) -> str:
    return text.replace("\n", " / ")
