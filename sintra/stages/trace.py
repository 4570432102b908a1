"""A text that the model writes itself: what it is calibrated and judged on where no other is given.

Half of the documents start from begin of text, the others with the head of a user's turn, and the
model writes question and answer through its chat template (as Magpie does, arXiv 2406.08464).
Such text was used in LLM-QAT (arXiv 2305.17888): it is of the kinds, the languages and the form
that the model knows. Each document has a random generator of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from sintra.core import lazy
from sintra.core.artifact import GGUF_FILE
from sintra.core.errors import Infeasible
from sintra.core.stage import Context, Stage
from sintra.formats.gguf.layout import read_layout
from sintra.formats.runtime.llama_cpp import TOKENS_FILE
from sintra.formats.runtime.sequences import Piece, SequencePool

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from sintra.formats.gguf import chat_template
else:
    np = lazy.module("numpy")
    chat_template = lazy.module("sintra.formats.gguf.chat_template")

SEQUENCES = 16  # documents that are written at once
LONGEST = 512  # tokens of a document, at most
SAID_EVERY = 5  # seconds between two lines of progress


class TraceJson(TypedDict):
    """How a text was written: trace.json."""

    documents: int
    conversations: int  # how many of them are a user's turn and an answer
    tokens: int
    seed: int
    temperature: float


@dataclass(frozen=True)
class Heads:
    """The tokens that documents begin with, and those between question and answer."""

    plain: tuple[int, ...]  # begin of text
    question: tuple[int, ...] = ()  # up to a user's words; empty without a chat template
    answer: tuple[int, ...] = ()  # from the end of the words to the opened answer


@dataclass
class Document:
    """A document that is being written."""

    tokens: list[int]  # so far, its head included
    pending: list[int]  # its last tokens, which the model hasn't read
    rng: np.random.Generator
    asked: bool  # whether the model writes a question at present
    answer: tuple[int, ...] = ()  # what comes behind the question
    finished: bool = False


def run(context: Context) -> None:
    """Write tokens.npy ((n,) int32, documents one after the other), text.txt and trace.json.

    inputs: gguf (the 16-bit model). params: tokens (how many are wanted), seed, chat (share of
    conversations), temperature. Raises Infeasible where the model writes nothing.
    """
    path = context.inputs["gguf"] / GGUF_FILE
    length = min(LONGEST, read_layout(path)["context"] or LONGEST)
    with closing(SequencePool(path, length, context.threads, SEQUENCES)) as pool:
        writer = Writer(context, pool, read_heads(pool, path), length)
        documents = writer.write()
        written = [pool.detokenize(tokens, special=True) for tokens in documents]
    tokens = np.concatenate([np.array(d, np.int32) for d in documents])
    np.save(context.out / TOKENS_FILE, tokens)
    (context.out / "text.txt").write_text("\n\n".join(written) + "\n")
    about: TraceJson = {
        "documents": len(documents),
        "conversations": sum(is_conversation(n, writer.share) for n in range(len(documents))),
        "tokens": len(tokens),
        "seed": context.params["seed"],
        "temperature": context.params["temperature"],
    }
    context.write_json("trace.json", about)


def read_heads(pool: SequencePool, path: Path) -> Heads:
    """Return what a model's documents begin with, from its vocabulary and chat template."""
    start = next((t for t in (pool.bos, pool.eos) if t >= 0), 0)
    template = chat_template.read_chat_template(path)
    around = template.around_question() if template else None
    if around is None or not around[0]:
        return Heads((start,))
    answer = pool.tokenize(around[1], special=True).tolist()
    return Heads((start,), tuple(pool.encode(around[0])), tuple(answer))


def is_conversation(number: int, share: float) -> bool:
    """Return whether the document of this number is a conversation: `share` of all, spread."""
    return int((number + 1) * share) > int(number * share)


class Writer:
    """Writes documents in batches of SEQUENCES until they have enough tokens.

    A batch begins with empty memory and no other document joins it, so that what it holds doesn't
    depend on how many tokens are wanted, nor on where a killed run goes on. (llama.cpp's sums
    differ in their last bits with the number of sequences, and a text soon differs with them.)
    """

    def __init__(self, context: Context, pool: SequencePool, heads: Heads, length: int) -> None:
        """length: tokens of a document, at most."""
        self.context, self.pool, self.heads, self.length = context, pool, heads, length
        self.share: float = context.params["chat"] if heads.question else 0.0
        self.start = time.monotonic()
        self.said = 0.0  # seconds after the start of the last line of progress

    def write(self) -> list[list[int]]:
        """Return the first documents that have the wanted tokens, each its tokens.

        Raises Infeasible where the model ends every document at once.
        """
        wanted: int = self.context.params["tokens"]
        documents = read_record(self.context.keep)
        resumed = count_tokens(documents)
        while (total := count_tokens(documents)) < wanted:
            if total < len(documents):
                raise Infeasible("refused", "the model ends every document at once: no own text")
            documents += self.write_batch(len(documents), total, resumed)
            write_record(self.context.keep, documents)
        sizes = np.cumsum([len(d) for d in documents])
        return documents[: int(np.searchsorted(sizes, wanted)) + 1]

    def write_batch(self, first: int, total: int, resumed: int) -> list[list[int]]:
        """Return the documents from number `first` on, as many as there are sequences.

        total: tokens of those before; resumed: how many of these an earlier process wrote.
        """
        batch = [self.begin(first + place) for place in range(self.pool.count)]
        while not all(d.finished for d in batch):
            self.step(batch)
            self.tell(total + count_tokens(d.tokens for d in batch), resumed)
        for place in range(self.pool.count):
            self.pool.drop(place)
        return [d.tokens[: self.length] for d in batch]

    def tell(self, done: int, resumed: int) -> None:
        """Write a line of progress, where the last one is some seconds old."""
        elapsed = time.monotonic() - self.start
        if elapsed - self.said < SAID_EVERY:
            return
        self.said = elapsed
        wanted: int = self.context.params["tokens"]
        left = max(0, wanted - done) * elapsed / max(done - resumed, 1)
        self.context.say(f"{min(done, wanted)} of {wanted} tokens, {left:.0f} s left")

    def begin(self, number: int) -> Document:
        """Return the document of this number, which has its head only."""
        asked = is_conversation(number, self.share)
        head = list(self.heads.question if asked else self.heads.plain)
        rng = np.random.default_rng([self.context.params["seed"], number])
        return Document(head, list(head), rng, asked, self.heads.answer if asked else ())

    def step(self, batch: list[Document]) -> None:
        """Write a token of every document that isn't finished."""
        live = [(place, d) for place, d in enumerate(batch) if not d.finished]
        pieces = [Piece(place, len(d.tokens) - len(d.pending), d.pending) for place, d in live]
        logits = self.pool.extend(pieces)
        for row, (_, document) in zip(logits, live, strict=True):
            self.add(document, draw(row, self.context.params["temperature"], document.rng))

    def add(self, document: Document, token: int) -> None:
        """Put a token behind a document; the end of a question is followed by an answer's head."""
        document.pending = [token]
        if self.pool.is_end(token):
            if document.asked:
                document.asked, document.pending = False, list(document.answer)
            else:
                document.finished = True
        document.tokens += document.pending
        if len(document.tokens) >= self.length:
            document.finished = True


def draw(logits: NDArray[np.float32], temperature: float, rng: np.random.Generator) -> int:
    """Return a token drawn by the softmax of logits / temperature.

    logits: (vocabulary,). Raises Infeasible for logits that are not finite.
    """
    if not np.isfinite(logits).all():
        raise Infeasible("not_a_number", "the model's logits are not finite")
    cumulative = np.exp((logits - logits.max()) / temperature).cumsum(dtype=np.float64)
    token = int(np.searchsorted(cumulative, rng.random() * cumulative[-1], side="right"))
    return min(token, len(logits) - 1)


def count_tokens(documents: Iterable[Sequence[int]]) -> int:
    """Return how many tokens documents have."""
    return sum(map(len, documents))


def record_path(folder: Path) -> Path:
    """Return the file of what a killed run had finished."""
    return folder / "documents.json"


def read_record(folder: Path) -> list[list[int]]:
    """Return the documents of whole batches, as a killed run left them."""
    try:
        rows = json.loads(record_path(folder).read_text())
    except (OSError, ValueError):
        return []
    return [list(map(int, tokens)) for tokens in rows]


def write_record(folder: Path, documents: list[list[int]]) -> None:
    """Record the documents of whole batches, for a run that goes on."""
    folder.mkdir(parents=True, exist_ok=True)
    part = record_path(folder).with_suffix(".part")
    part.write_text(json.dumps(documents))
    part.replace(record_path(folder))


STAGE = Stage(
    "trace",
    1,
    run,
    tools=("llama-cpp-python", "numpy"),
    files=(TOKENS_FILE, "text.txt", "trace.json"),
    title="Write text",
)
