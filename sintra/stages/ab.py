"""Two models' answers to the same prompts, greedy, and how far their predictions diverge.

The divergence is measured along the original's answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypedDict

from sintra.core import lazy
from sintra.core.errors import Infeasible, UserError
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.chat_template import read_chat_format
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.llama_cpp import LlamaModel, log_softmax, open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

END = "\u220e"  # what is shown for end of text
ROLES = ("original", "variant")
CUT_CHARACTER = "\ufffd"  # what a text ends with whose last character isn't whole yet


class AnswerJson(TypedDict):
    """Both answers to one prompt."""

    prompt: str
    original: list[str]  # the text of each token of the original's answer
    variant: list[str]  # the text of each token of the variant's answer
    parted: int | None  # index of the first token that differs; None: none does
    kld: list[float]  # nats, before each token of the original's answer


class OriginalAnswer(NamedTuple):
    """The original's answer to one prompt."""

    prompt: list[int]  # token ids of the prompt
    answer: list[int]  # token ids of the answer
    pieces: list[str]  # the text of each token of the answer
    log_probs: NDArray[np.float32]  # before each token, nats, (answer, vocabulary)


def run(context: Context) -> None:
    """Write ab.json: {"tokens": most tokens of an answer, "answers": [AnswerJson]}.

    params: prompts, tokens, chat (whether prompts go through the chat template), kv (type of the
    variant's cache, f16 where absent).
    Raises UserError for models that can't be compared, Infeasible for a prompt that is too long.
    """
    paths = [
        next(p for p in context.inputs[role].iterdir() if p.name in ("model.gguf", "text.txt"))
        for role in ROLES
    ]
    tokens, prompts = context.params["tokens"], context.params["prompts"]
    turns = [as_chat_turn(paths[0], p) for p in prompts] if context.params["chat"] else prompts
    size = context_size(paths[0], turns, tokens)
    with open_model(paths[0], size, context.threads) as model:
        originals = [original_answer(model, model.encode(turn), tokens) for turn in turns]
        vocabulary = model.vocabulary
    answers: list[AnswerJson] = []
    with open_model(paths[1], size, context.threads, kv=context.params.get("kv", "f16")) as model:
        if model.vocabulary != vocabulary:
            raise UserError(
                "the two models have different vocabularies: their answers can't be compared "
                "token by token"
            )
        for prompt, original in zip(prompts, originals, strict=True):
            answers.append(compare_answers(model, prompt, original, tokens))
            context.say(f"prompt {len(answers)} of {len(prompts)}")
    context.write_json("ab.json", {"tokens": tokens, "answers": answers})


def as_chat_turn(path: Path, prompt: str) -> str:
    """Return a prompt as a user's turn of the model's chat template.

    Raises UserError where the template is more than text around it.
    """
    chat = read_chat_format(path)
    if chat.turns is None:
        raise UserError(
            f"the model has no chat template of plain turns ({chat.reason}): leave chat=true out"
        )
    return chat.text([{"role": "user", "content": prompt}])


def context_size(path: Path, prompts: list[str], tokens: int) -> int:
    """Return the context, in tokens, of the longest prompt and an answer of `tokens` tokens.

    Raises Infeasible where the model has less.
    """
    model = LlamaModel(path, 0, 1, vocab_only=True)
    try:
        need = max(len(model.encode(p)) for p in prompts) + tokens + 1
    finally:
        model.close()
    most = read_layout(path)["context"]
    if most and need > most:
        raise Infeasible(
            "refused",
            f"the longest prompt and {tokens} tokens make {need}, the model's context is {most}",
        )
    return max(need, 32)


def original_answer(model: LlamaModel, prompt: list[int], tokens: int) -> OriginalAnswer:
    """Return the original's answer to a prompt (token ids), at most `tokens` tokens."""
    answer = greedy_answer(model, prompt, tokens)
    pieces = answer_pieces(model, prompt, answer)
    return OriginalAnswer(prompt, answer, pieces, answer_log_probs(model, prompt, answer))


def compare_answers(
    model: LlamaModel, text: str, original: OriginalAnswer, tokens: int
) -> AnswerJson:
    """Return the variant's answer beside the original's. text: the prompt as the user wrote it."""
    answer = greedy_answer(model, original.prompt, tokens)
    p, q = original.log_probs, answer_log_probs(model, original.prompt, original.answer)
    return {
        "prompt": text,
        "original": original.pieces,
        "variant": answer_pieces(model, original.prompt, answer),
        "parted": first_difference(original.answer, answer),
        "kld": [float(k) for k in divergence_by_token(p, q)],
    }


def greedy_answer(model: LlamaModel, prompt: list[int], most: int) -> list[int]:
    """Return the greedy continuation: at most `most` token ids, the one that ends it included."""
    answer: list[int] = []
    for _ in greedy_steps(model, prompt, most, answer):
        pass
    return answer


def greedy_steps(
    model: LlamaModel, prompt: list[int], most: int, answer: list[int]
) -> Iterator[bool]:
    """Append the greedy continuation to `answer`, a token a step; yield whether it has ended.

    most: how many tokens it may have, 1 or more. The token that ends it is included.
    """
    model.clear()
    logits = model.logits(np.array(prompt, np.int32), 0, len(prompt) - 1)
    while True:
        answer.append(int(logits[-1].argmax()))
        ended = model.is_end(answer[-1]) or len(answer) >= most
        yield ended
        if ended:
            return
        last = np.array(answer[-1:], np.int32)
        logits = model.logits(last, len(prompt) + len(answer) - 1, 0)


def divergence_by_token(p: NDArray[np.float32], q: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return KL(p || q) in nats of each token, from log-probabilities (tokens, vocabulary)."""
    exact = p.astype(np.float64)
    divergence: NDArray[np.float64] = (np.exp(exact) * (exact - q)).sum(1)
    return divergence


def answer_log_probs(
    model: LlamaModel, prompt: list[int], answer: list[int]
) -> NDArray[np.float32]:
    """Return log-probabilities in nats before each token of an answer, (answer, vocabulary)."""
    model.clear()
    ids = np.array(prompt + answer[:-1], np.int32)
    return log_softmax(model.logits(ids, 0, len(prompt) - 1))


def answer_pieces(model: LlamaModel, prompt: list[int], answer: list[int]) -> list[str]:
    """Return the text that each token adds.

    A character of several tokens stands at the last one.
    """
    pieces, before = [], model.detokenize(prompt)
    for count, token in enumerate(answer, 1):
        after = model.detokenize(prompt + answer[:count])
        whole = not after.endswith(CUT_CHARACTER) or count == len(answer)
        pieces.append(END if model.is_end(token) else after[len(before) :] if whole else "")
        before = after if whole else before
    return pieces


def first_difference(one: list[int], two: list[int]) -> int | None:
    """Return the first index at which two answers differ; None where they are the same."""
    if one == two:
        return None
    return next(
        (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b),
        min(len(one), len(two)),
    )


STAGE = Stage("ab", 1, run, tools=("llama-cpp-python",), files=("ab.json",))
