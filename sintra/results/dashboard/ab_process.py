"""Let the original and the compressed model answer a prompt at once, token by token.

They run in a process of their own, `python -m sintra.results.dashboard.ab_process ORDER.json`. It
writes a JSON object per line to stdout as it happens.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict, final

from sintra.core.errors import Infeasible, UserError

if TYPE_CHECKING:
    from sintra.formats.runtime.llama_cpp import LlamaModel


class AbOrder(TypedDict):
    """What the process has to do."""

    paths: list[str]  # two GGUFs, the original first
    prompt: str
    tokens: int  # most tokens of an answer
    chat: bool  # whether the prompt goes through the model's chat template
    threads: int
    kv: str  # type of the second model's KV cache
    lock: str  # a file; its holder measures a speed, and nobody else may load the machine


@final
class AbToken(TypedDict):
    """A piece of an answer."""

    side: int  # 0: the original, 1: the compressed model
    n: int  # tokens so far
    text: str  # what is new
    tps: float  # speed so far, tokens/s


@final
class AbSummary(TypedDict):
    """How far apart the two models were along the original's answer; the last line."""

    parted: int | None  # index of the first token that differs; None where the answers are equal
    kld: float  # mean KL divergence, nats per token
    most: float  # largest KL divergence of a token, nats
    tokens: int  # tokens that the mean is over


@final
class AbWait(TypedDict):
    """A remark while the models wait."""

    wait: str


@final
class AbError(TypedDict):
    """Why there is no answer; the last line."""

    error: str


AbEvent = AbToken | AbSummary | AbWait | AbError
Emit = Callable[[AbEvent], None]


def main(argv: list[str]) -> int:
    """Answer the order in the file argv[0]. Returns 2 where the user can do something about it."""
    order: AbOrder = json.loads(Path(argv[0]).read_text())

    def emit(event: AbEvent) -> None:
        print(json.dumps(event), flush=True)

    try:
        with Path(order["lock"]).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                emit({"wait": "a speed is being measured; the answers come after that"})
                fcntl.flock(lock, fcntl.LOCK_SH)
            compare_answers(order, emit)
    except (Infeasible, UserError) as error:
        emit({"error": str(error)})
        return 2
    return 0


def compare_answers(order: AbOrder, emit: Emit) -> None:
    """Emit both answers in turn, then how far apart the two models were along the original's.

    Raises UserError where the models have different vocabularies.
    """
    from sintra.formats.runtime.llama_cpp import open_model  # loads llama.cpp
    from sintra.stages import ab  # loads llama.cpp

    paths = [Path(p) for p in order["paths"]]
    prompt = ab.as_chat_turn(paths[0], order["prompt"]) if order["chat"] else order["prompt"]
    size = ab.context_size(paths[0], [prompt], order["tokens"])
    with ExitStack() as stack:
        models = [
            stack.enter_context(open_model(p, size, order["threads"], kv=kv))
            for p, kv in zip(paths, ("f16", order["kv"]), strict=True)
        ]
        if models[0].vocabulary != models[1].vocabulary:
            raise UserError(
                "the two models have different vocabularies: their answers can't be compared "
                "token by token"
            )
        ids = models[0].encode(prompt)
        answers = generate_in_turn(models, ids, order["tokens"], emit)
        p, q = (ab.answer_log_probs(m, ids, answers[0]) for m in models)
        kld = ab.divergence_by_token(p, q)
        emit(
            {
                "parted": ab.first_difference(*answers),
                "kld": float(kld.mean()),
                "most": float(kld.max()),
                "tokens": len(kld),
            }
        )


def generate_in_turn(
    models: list[LlamaModel], ids: list[int], most: int, emit: Emit
) -> list[list[int]]:
    """Return the two greedy answers of at most `most` tokens, made a token each in turn.

    Each piece of text is emitted as it comes; a character of several tokens comes with its last.
    ids: the prompt's tokens.
    """
    from sintra.stages import ab  # loads llama.cpp

    answers: list[list[int]] = [[], []]
    steps = [ab.greedy_steps(m, ids, most, own) for m, own in zip(models, answers, strict=True)]
    seconds, emitted = [0.0, 0.0], ["", ""]
    unfinished = {0, 1}
    while unfinished:
        for side in sorted(unfinished):
            start = time.perf_counter()
            ended = next(steps[side], True)
            seconds[side] += time.perf_counter() - start
            count = len(answers[side])
            text = models[side].detokenize(ids + answers[side])[len(models[side].detokenize(ids)) :]
            if not text.endswith(ab.CUT_CHARACTER) or ended:
                new, tps = text[len(emitted[side]) :], count / seconds[side]
                emit({"side": side, "n": count, "text": new, "tps": tps})
                emitted[side] = text
            if ended:
                unfinished.discard(side)
    return answers


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
