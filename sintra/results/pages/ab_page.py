"""Format the A/B comparison of two models' answers: for a terminal, and as a page."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from itertools import zip_longest
from typing import TypedDict

from sintra.results.pages.page import render_template

# (upper end of the KL divergence in nats, CSS class of the token, words of the legend)
LEVELS = (
    (0.01, "k0", "under 0.01 nats"),
    (0.1, "k1", "under 0.1"),
    (0.5, "k2", "under 0.5"),
    (float("inf"), "k3", "0.5 and more"),
)
DIFFERENCE_MARK = "»"


class AbAnswer(TypedDict):
    """Both models' answers to one prompt, as they stand in ab.json."""

    prompt: str
    original: list[str]  # the 16-bit model's answer, token by token
    variant: list[str]  # the compressed model's answer, token by token
    parted: int | None  # index of the first token that differs; None where the answers are equal
    kld: list[float]  # KL divergence at each token of the original's answer, nats


class AbComparison(TypedDict):
    """The file ab.json of an `ab` artifact."""

    tokens: int  # most tokens of an answer
    answers: list[AbAnswer]


class AbTotals(TypedDict):
    """The comparison in three numbers."""

    same: int  # identical answers
    kld: float  # mean KL divergence along the original's answers, nats per token
    count: int  # tokens that the mean is over


@dataclass(frozen=True)
class TokenSpan:
    """A token as the page shows it."""

    text: str
    differs: bool  # whether it is the first one that differs from the other answer
    after: bool  # whether it stands at or behind the first difference
    kld: float | None  # nats; None for the variant's tokens
    level: str  # CSS class of its color
    title: str | None  # tooltip


@dataclass(frozen=True)
class AnswerSide:
    """One model's answer."""

    name: str  # heading
    tokens: list[TokenSpan]


@dataclass(frozen=True)
class AnswerSection:
    """A prompt with both answers."""

    prompt: str
    parted: int | None  # index of the first token that differs; None where the answers are equal
    mean: float  # KL divergence along the original, nats per token
    largest: float  # largest KL divergence of a token, nats
    largest_at: int  # index of that token
    original: AnswerSide
    variant: AnswerSide


def render_comparison(comparison: AbComparison, title: str, original: str, variant: str) -> str:
    """Return the page of a comparison. original, variant: what the two models are called."""
    return render_template(
        "ab.html",
        title=title,
        original=original,
        variant=variant,
        answers=[_answer_section(answer) for answer in comparison["answers"]],
        legend=[(level, words) for _, level, words in LEVELS],
        tokens=comparison["tokens"],
        **comparison_totals(comparison),
    )


def comparison_totals(comparison: AbComparison) -> AbTotals:
    """Count the identical answers and average the divergence over all tokens."""
    divergences = [kld for answer in comparison["answers"] for kld in answer["kld"]]
    return {
        "same": sum(answer["parted"] is None for answer in comparison["answers"]),
        "kld": sum(divergences) / len(divergences),
        "count": len(divergences),
    }


def _answer_section(answer: AbAnswer) -> AnswerSection:
    parted, kld = answer["parted"], answer["kld"]
    largest_at = max(range(len(kld)), key=kld.__getitem__)
    original = [
        _token_span(text, i, parted, divergence)
        for i, (text, divergence) in enumerate(zip(answer["original"], kld, strict=True))
    ]
    variant = [_token_span(text, i, parted, None) for i, text in enumerate(answer["variant"])]
    return AnswerSection(
        prompt=answer["prompt"],
        parted=parted,
        mean=sum(kld) / len(kld),
        largest=kld[largest_at],
        largest_at=largest_at,
        original=AnswerSide("Original", original),
        variant=AnswerSide("Compressed", variant),
    )


def _token_span(text: str, index: int, parted: int | None, kld: float | None) -> TokenSpan:
    return TokenSpan(
        text=text,
        differs=index == parted,
        after=parted is not None and index >= parted,
        kld=kld,
        level=next(level for end, level, _ in LEVELS if (kld or 0.0) < end),
        title=None if kld is None else f"{kld:.5f} nats",
    )


def format_comparison(comparison: AbComparison, width: int) -> str:
    """Return the comparison in two columns for a terminal of a width in characters.

    DIFFERENCE_MARK stands where the answers differ for the first time.
    """
    column = max(20, (width - 3) // 2)
    lines = [f"{'original':<{column}} | compressed"]
    for number, answer in enumerate(comparison["answers"], 1):
        lines += ["", *_format_answer(number, answer, width, column)]
    totals = comparison_totals(comparison)
    lines += [
        "",
        f"{totals['same']} of {len(comparison['answers'])} answers identical; mean KLD "
        f"{totals['kld']:.5f} nats per token along the original's {totals['count']} tokens",
    ]
    return "\n".join(lines)


def _format_answer(number: int, answer: AbAnswer, width: int, column: int) -> list[str]:
    parted, kld = answer["parted"], answer["kld"]
    where = "identical" if parted is None else f"parts after {parted} tokens ({DIFFERENCE_MARK})"
    original, variant = (
        textwrap.wrap(_one_line(_marked(tokens, parted)), column)
        for tokens in (answer["original"], answer["variant"])
    )
    return [
        *textwrap.wrap(f"{number}. {_one_line(answer['prompt'])}", width),
        f"   {where}; KLD along the original {sum(kld) / len(kld):.5f} nats per token, max "
        f"{max(kld):.5f}",
        *(
            f"{left:<{column}} | {right}".rstrip()
            for left, right in zip_longest(original, variant, fillvalue="")
        ),
    ]


def _marked(tokens: list[str], parted: int | None) -> str:
    if parted is None:
        return "".join(tokens)
    return "".join(tokens[:parted]) + DIFFERENCE_MARK + "".join(tokens[parted:])


def _one_line(text: str) -> str:
    return text.replace("\n", " / ")
