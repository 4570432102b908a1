"""Two models' answers to the same prompts, greedy, with the divergence of their predictions along
the first one's answer.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from sintra.core import lazy
from sintra.core.errors import Infeasible, UserError
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.llama_cpp import LlamaModel, log_softmax, open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

END = "\u220e"  # what is shown for end of text


def run(context: Context) -> None:
    """Write ab.json: {"tokens", "answers": [{"prompt", "original": pieces, "variant": pieces,
    "parted": index or None, "kld": nats by token of the original's answer}]}. params: prompts,
    tokens, chat.
    """
    tokens = context.params["tokens"]
    paths = [
        next(p for p in context.inputs[role].iterdir() if p.name in ("model.gguf", "text.txt"))
        for role in ROLES
    ]
    prompts = (
        [told(paths[0], p) for p in context.params["prompts"]]
        if context.params["chat"]
        else context.params["prompts"]
    )
    size = room(paths[0], prompts, tokens)
    with open_model(paths[0], size, context.threads) as model:
        ids = [model.encode(p) for p in prompts]
        first = [
            (said := answered(model, i, tokens), pieces(model, i, said), predicted(model, i, said))
            for i in ids
        ]
        vocabulary = model.vocabulary
    answers = []
    with open_model(paths[1], size, context.threads, kv=context.params.get("kv", "f16")) as model:
        if model.vocabulary != vocabulary:
            raise UserError(
                "the two models have different vocabularies: their answers can't be compared "
                "token by token"
            )
        for prompt, i, (said, shown, p) in zip(context.params["prompts"], ids, first, strict=True):
            other = answered(model, i, tokens)
            q = predicted(model, i, said)
            kld = (np.exp(p.astype(np.float64)) * (p.astype(np.float64) - q)).sum(1)
            answers.append(
                {
                    "prompt": prompt,
                    "original": shown,
                    "variant": pieces(model, i, other),
                    "parted": parting(said, other),
                    "kld": [float(k) for k in kld],
                }
            )
            context.say(f"prompt {len(answers)} of {len(ids)}")
    context.write_json("ab.json", {"tokens": tokens, "answers": answers})


ROLES = ("original", "variant")


def told(path: Path, prompt: str) -> str:
    """A prompt as a user's turn of the model's chat template. Raises UserError where that is more
    than text around it.
    """
    from sintra.formats.gguf.chat_template import read_chat_format

    chat = read_chat_format(path)
    if chat.turns is None:
        raise UserError("the model has no chat template of plain turns: leave chat=true out")
    before, after = chat.turns["user"]
    return f"{before}{prompt}{after}{chat.opening}"


def room(path: Path, prompts: list[str], tokens: int) -> int:
    """The context that the longest prompt and its answer need. Raises Infeasible where the model
    has less.
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


def answered(model: LlamaModel, ids: list[int], most: int) -> list[int]:
    """The greedy continuation: at most `most` tokens, the token that ends it included."""
    said: list[int] = []
    model.clear()
    logits = model.logits(np.array(ids, np.int32), 0, len(ids) - 1)
    while len(said) < most:
        said.append(int(logits[-1].argmax()))
        if model.is_end(said[-1]):
            break
        logits = model.logits(np.array(said[-1:], np.int32), len(ids) + len(said) - 1, 0)
    return said


def predicted(model: LlamaModel, ids: list[int], said: list[int]) -> NDArray[np.float32]:
    """Log-probabilities in nats before each token of an answer, (answer, vocabulary)."""
    model.clear()
    return log_softmax(model.logits(np.array(ids + said[:-1], np.int32), 0, len(ids) - 1))


def pieces(model: LlamaModel, ids: list[int], said: list[int]) -> list[str]:
    """The text that each token adds; a character of several tokens stands at its last one."""
    found, before = [], model.detokenize(ids)
    for count, token in enumerate(said, 1):
        after = model.detokenize(ids + said[:count])
        whole = not after.endswith("\ufffd") or count == len(said)
        found.append(END if model.is_end(token) else after[len(before) :] if whole else "")
        before = after if whole else before
    return found


def parting(one: list[int], two: list[int]) -> int | None:
    """The first place where two answers differ; None where they are the same."""
    if one == two:
        return None
    return next(
        (i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b),
        min(len(one), len(two)),
    )


STAGE = Stage("ab", 1, run, tools=("llama-cpp-python",))
