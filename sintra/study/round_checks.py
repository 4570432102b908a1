"""Check a round that somebody else has planned, before anything in it is used.

What names a thing comes from closed lists, patterns are the literal ones that Sintra writes, texts
are printable and bounded, and numbers are finite. Every check raises ValueError with what is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

from sintra.core import plugins
from sintra.core.format import PLANNED
from sintra.core.kv_cache import is_kv
from sintra.core.recipe import EVERY_MATRIX, Recipe
from sintra.core.text import is_printable_line
from sintra.core.types import Proposal
from sintra.planning.state import ADVISER, EXPLORER, StudyLesson
from sintra.study.first_look import STUDY
from sintra.study.round_files import Round

LEVELS = ("build", "screen", "search", "report")
ROUNDINGS = ("nearest", "compensated")
LONGEST_REASON = 4000  # characters of a proposal's reason, and of why a study ends
LONGEST_PROBE = 200  # characters of what a proposal probes, in words
LONGEST_PATTERN = 8000  # characters: a name and the numbers of all blocks
MOST_PROPOSALS = 1000  # of a round
MOST_PATTERNS = 10_000  # of a recipe
MOST_BLOCKS = 10_000  # of a model
MOST_NUMBERS = 200  # predicted of a proposal
LARGEST_NUMBER = 1e30
# A tensor's name, its dots escaped, or one in some blocks: what mix_patterns writes. Neither can
# backtrack.
NAME = r"[A-Za-z0-9_]+(?:\\\.[A-Za-z0-9_]+)*"
BLOCKS = r"blk\\\.\([0-9]{1,5}(?:\|[0-9]{1,5})*\)\\\."
LITERAL_PATTERN = re.compile(rf"\^(?:{BLOCKS})?{NAME}\$")
OTHER_TYPE = re.compile(r"w[0-9]{1,2}g[0-9]{1,5}|given_[0-9a-f]{8}")  # of checkpoints
METRIC = re.compile(r"[a-z][a-z0-9_:.-]{0,99}")
ROUND_KEYS = {"round", "proposals", "stop", "again", "learned"}
LESSON_TEXTS = ("architecture", "weights", "backend", "optimise", "rounding")
LESSON_NUMBERS = ("parameters", "evaluations", "least_kld", "misfit")


def check_round(content: Any, number: int) -> Round:
    """Return the round in what somebody else has written, which must be of this number.

    Raises ValueError, KeyError, TypeError, AttributeError.
    """
    if not isinstance(content, dict) or not set(content) <= ROUND_KEYS:
        refuse("it has other fields than a round")
    if content["round"] != number or type(content["round"]) is not int or content.get("again"):
        refuse("its number or its end is wrong")
    if content["stop"] is not None and not is_printable_line(content["stop"], LONGEST_REASON):
        refuse("why it ends is not a printable line")
    proposals = content["proposals"]
    if not isinstance(proposals, list) or len(proposals) > MOST_PROPOSALS:
        refuse(f"it has no list of at most {MOST_PROPOSALS} proposals")
    if content["stop"] is None and (not proposals or content.get("learned") is not None):
        refuse("it neither proposes anything nor ends")
    if content.get("learned") is not None:
        check_lesson(content["learned"])
    found = Round.of_json(content)
    for proposal in found.proposals:
        check_proposal(proposal)
    return found


def check_progress(planned: Round, earlier: Sequence[Round], formats: Sequence[str]) -> None:
    """Check that a round goes on with a study: nothing that was tried, no format but the study's.

    Raises ValueError.
    """
    tried = {(p.recipe, p.level) for r in earlier for p in r.proposals}
    if any((p.recipe, p.level) in tried for p in planned.proposals):
        refuse("it proposes what an earlier round has proposed")
    if any(p.recipe.format not in formats for p in planned.proposals):
        refuse("it proposes a format that the study doesn't make")


def check_proposal(proposal: Proposal) -> None:
    """Check that what somebody else has written can be a proposal. Raises ValueError, TypeError,
    AttributeError.
    """
    check_recipe(proposal.recipe)
    if proposal.level not in LEVELS:
        refuse("its level is unknown")
    if proposal.author not in (ADVISER, EXPLORER, STUDY) and not (
        is_plain_word(proposal.author) and plugins.has("planners", proposal.author)
    ):
        refuse("its author is not a planner")
    if not is_printable_line(proposal.why, LONGEST_REASON):
        refuse(f"its reason is not a printable line of at most {LONGEST_REASON} characters")
    if proposal.probe and not is_printable_line(proposal.probe, LONGEST_PROBE):
        refuse(f"what it probes is not a printable line of at most {LONGEST_PROBE} characters")
    check_numbers(proposal.predicted)
    stated = proposal.confidence
    if stated is not None and not (is_number(stated) and 0 <= stated <= 1):
        refuse("its confidence is not a share")


def check_recipe(recipe: Recipe) -> None:
    """Check that a recipe names only what there is. Raises ValueError, TypeError."""
    if not is_plain_word(recipe.format) or not plugins.has("formats", recipe.format):
        refuse("its format is unknown")
    if recipe.rounding not in ROUNDINGS or not is_kv(recipe.kv):
        refuse("its rounding or the type of its KV cache is unknown")
    known = is_file_type if recipe.format == PLANNED else is_checkpoint_type
    if not known(recipe.type):
        refuse("its type is unknown")
    if len(recipe.tensors) > MOST_PATTERNS or len({p for p, _ in recipe.tensors}) < len(
        recipe.tensors
    ):
        refuse("it has too many patterns, or one twice")
    if not all(is_tensor_type(kind) for _, kind in recipe.tensors):
        refuse("the type of a tensor is unknown")
    if not all(is_literal_pattern(pattern) for pattern, _ in recipe.tensors):
        refuse("a pattern is not the name of tensors")
    if any(block >= MOST_BLOCKS for block in (*recipe.drop, *recipe.no_attention)):
        refuse("it leaves out a block that no model has")


def check_lesson(lesson: Any) -> None:
    """Check that what a study is said to have taught can be a lesson. Raises ValueError, KeyError,
    TypeError, AttributeError.
    """
    StudyLesson.of(lesson, 1.0)
    if not all(is_printable_line(lesson[name], LONGEST_REASON) for name in LESSON_TEXTS):
        refuse("its lesson has a text that is not a printable line")
    points = [n for pairs in lesson["classes"].values() for pair in pairs for n in pair]
    blocks = lesson["blocks"]
    numbers = (*points, *lesson["factors"].values(), *(lesson[n] for n in LESSON_NUMBERS))
    if not all(is_number(n) for n in (*numbers, lesson["bend"], 0 if blocks is None else blocks)):
        refuse("its lesson has what is not a number")
    if lesson["parameters"] <= 0 or len(points) > 2 * MOST_PATTERNS:
        refuse("its lesson is of no model")
    if not all(is_printable_line(name, 100) for name in (*lesson["classes"], *lesson["factors"])):
        refuse("its lesson names what is not a class of tensors")


def check_numbers(predicted: Any) -> None:
    """Check that a proposal predicts metrics by finite numbers. Raises ValueError."""
    if not isinstance(predicted, dict) or len(predicted) > MOST_NUMBERS:
        refuse("its predictions are not a mapping")
    if not all(isinstance(name, str) and METRIC.fullmatch(name) for name in predicted):
        refuse("it predicts what is not a metric")
    if not all(is_number(value) for value in predicted.values()):
        refuse("its predictions are not numbers")


def is_number(value: object) -> bool:
    """Return whether a value is a finite number, and not a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) < LARGEST_NUMBER


def is_plain_word(word: object) -> bool:
    """Return whether a value is a text of letters, digits, "_" and "-"."""
    return isinstance(word, str) and re.fullmatch(r"[A-Za-z0-9_-]{1,100}", word) is not None


def is_literal_pattern(pattern: str) -> bool:
    """Return whether a pattern stands for every matrix or for the names of some tensors."""
    if len(pattern) > LONGEST_PATTERN:
        return False
    return pattern == EVERY_MATRIX or LITERAL_PATTERN.fullmatch(pattern) is not None


def is_file_type(name: object) -> bool:
    """Return whether llama.cpp has a file type of this name, such as Q4_K_M."""
    import gguf  # not on the no-op path

    members = gguf.LlamaFileType.__members__
    return is_plain_word(name) and (f"MOSTLY_{name}" in members or f"ALL_{name}" in members)


def is_tensor_type(name: object) -> bool:
    """Return whether ggml has a tensor type of this name, such as Q4_K."""
    import gguf  # not on the no-op path

    return isinstance(name, str) and name in gguf.GGMLQuantizationType.__members__


def is_checkpoint_type(name: object) -> bool:
    """Return whether a name is that of bits and group size, or of a checkpoint that exists."""
    return isinstance(name, str) and OTHER_TYPE.fullmatch(name) is not None


def refuse(what: str) -> NoReturn:
    """Raise ValueError."""
    raise ValueError(what)
