"""Make the bundled models from nothing: stories, tokenizer, training, texts, questions and model
cards.

    python models/make.py fable           # about 35 minutes on two cores
    python models/make.py fable_mini      # about 20 minutes
    python models/make.py texts  # texts/ and tasks/: no story that a model was trained on
    python models/make.py card fable      # measures again and writes the model card

Deterministic on one machine with the same library versions: fixed seeds, a fixed number of steps,
two threads. The optimiser is Muon for the matrices of the blocks and AdamW for everything else.
torch.optim.Muon works in bfloat16, which a CPU without such instructions runs forty times slower
than float32 (17.6 s a step against 0.4 s): hence our own.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import far
import mixed
import sentencepiece
import stories
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
)

HERE = Path(__file__).resolve().parent
VOCAB = 2048
CONTEXT = 512
BATCH = 8
SPECIAL = ("<|user|>", "<|assistant|>", "<|system|>")
FIRST_SPECIAL = 3  # behind <unk>, <s>, </s>
EOS = 2
BOS = 1
TEMPLATE = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] + '</s>' "
    "}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)
SEEDS = {
    "train": 1,
    "validation": 2,
    "calibration": 3,
    "search": 4,
    "report": 5,
    "tasks": 6,
    "tokenizer": 7,
    "far": 8,
    "mixed": 9,
}
TEXT_BYTES = {"calibration": 240_000, "search": 60_000, "report": 240_000, "far": 120_000}
MIXED_SHARE = 1 / 3


@dataclass(frozen=True)
class Plan:
    """How one model is shaped and trained."""

    config: LlamaConfig | Qwen2Config
    steps: int


def shape(**more: Any) -> dict[str, Any]:
    """What both models share: widths in multiples of 256, so that K-quants apply everywhere."""
    return dict(
        vocab_size=VOCAB,
        hidden_size=256,
        intermediate_size=768,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=None,
        **more,
    )


PLANS = {
    "fable": Plan(LlamaConfig(**shape(num_hidden_layers=8, tie_word_embeddings=False)), steps=700),
    "fable_mini": Plan(
        Qwen2Config(**shape(num_hidden_layers=4, tie_word_embeddings=True)), steps=700
    ),
}


def digest(text: str) -> str:
    """By which equal documents are found."""
    return hashlib.sha256(text.encode()).hexdigest()


def as_text(document: str | list[tuple[str, str]]) -> str:
    """A document as it is written in a text file; the roles of a conversation become words."""
    if isinstance(document, str):
        return document
    return "\n".join(f"{role.title()}: {content}" for role, content in document)


def tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The tokenizer of all bundled models, trained when it isn't there yet."""
    model = path / "tokenizer.model"
    if not model.exists():
        path.mkdir(parents=True, exist_ok=True)
        lines = [
            as_text(d) for d in itertools.islice(stories.documents(SEEDS["tokenizer"]), 20_000)
        ]
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines),
            model_prefix=str(path / "tokenizer"),
            model_type="bpe",
            vocab_size=VOCAB,
            character_coverage=1.0,
            byte_fallback=True,
            remove_extra_whitespaces=False,
            split_digits=True,
            user_defined_symbols=list(SPECIAL),
            normalization_rule_name="identity",
            num_threads=1,
            minloglevel=2,
        )
        (path / "tokenizer.vocab").unlink()
    return sentencepiece.SentencePieceProcessor(model_file=str(model))


def encode(
    sp: sentencepiece.SentencePieceProcessor, document: str | list[tuple[str, str]]
) -> list[int]:
    """Token ids of a document, from begin to end of text; a conversation through the chat
    template's form.
    """
    if isinstance(document, str):
        return [BOS, *sp.encode(document), EOS]
    ids = [BOS]
    for role, content in document:
        ids += [*sp.encode(f"<|{role}|>{content}"), EOS]
    return ids


def blocks(sp: sentencepiece.SentencePieceProcessor, seed: int, banned: set[str]) -> Any:
    """Endless batches of packed tokens, (BATCH, CONTEXT), without the documents that are kept
    apart.
    """
    rest: list[int] = []
    for document in stories.documents(seed):
        if digest(as_text(document)) in banned:
            continue
        rest += encode(sp, document)
        while len(rest) >= BATCH * CONTEXT:
            yield torch.tensor(rest[: BATCH * CONTEXT]).view(BATCH, CONTEXT)
            rest = rest[BATCH * CONTEXT :]


def text_documents(name: str) -> list[str]:
    """The documents of a bundled text, none of which stands in an earlier one."""
    seen: set[str] = set()
    for other in TEXT_BYTES:
        found, size = [], 0
        source = (
            far.documents(SEEDS[other])
            if other == "far"
            else map(as_text, stories.documents(SEEDS[other]))
        )
        for document in source:
            if size >= TEXT_BYTES[other]:
                break
            key = digest(document)
            if key not in seen:
                seen.add(key)
                found.append(document)
                size += len(document) + 2
        if other == name:
            return found
    raise KeyError(name)


def text_of(name: str) -> list[str]:
    """The documents of a bundled text as they stand in its file."""
    return list(varied(text_documents(name))) if name == "calibration" else text_documents(name)


def varied(documents: list[str]) -> Iterator[str]:
    """Documents with others of many kinds between them, so that at every place a third of the bytes
    are the others'.
    """
    others, own, strange = mixed.documents(SEEDS["mixed"]), 0, 0
    for document in documents:
        yield document
        own += len(document)
        while strange < own * MIXED_SHARE / (1 - MIXED_SHARE):
            other = next(others)
            strange += len(other)
            yield other


def kept_apart() -> set[str]:
    """Digests of every document that no model may be trained on."""
    return {digest(d) for name in ("search", "report") for d in text_documents(name)}


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal by five Newton-Schulz steps (Keller Jordan, 2024),
    in float32.

    The update is scaled to the root mean square that AdamW's has (Moonlight, arXiv 2502.16982: 0.2
    sqrt(max side)).
    """

    def __init__(self, params: Any, lr: float, momentum: float = 0.95, decay: float = 0.05) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        """One update of every matrix that has a gradient."""
        for group in self.param_groups:
            for p in group["params"]:
                held = self.state[p].setdefault("momentum", torch.zeros_like(p))
                held.lerp_(p.grad, 1 - group["momentum"])
                update = orthogonal(p.grad.lerp(held, group["momentum"]))
                p.mul_(1 - group["lr"] * group["decay"])
                p.add_(update, alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)


def orthogonal(
    x: torch.Tensor, a: float = 3.4445, b: float = -4.7750, c: float = 2.0315
) -> torch.Tensor:
    """Roughly U V' of x = U S V', for a matrix of any shape."""
    tall = x.shape[0] > x.shape[1]
    x = (x.T if tall else x) / (x.norm() + 1e-7)
    for _ in range(5):
        y = x @ x.T
        x = a * x + (b * y + c * y @ y) @ x
    return x.T if tall else x


def optimizers(model: PreTrainedModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for embeddings, norms and biases."""
    inner = [p for n, p in model.named_parameters() if p.ndim == 2 and "layers." in n]
    outer = [p for n, p in model.named_parameters() if not (p.ndim == 2 and "layers." in n)]
    return [
        Muon(inner, lr=3e-3),
        torch.optim.AdamW(outer, lr=3e-3, weight_decay=0.01, betas=(0.9, 0.95)),
    ]


def schedule(step: int, steps: int) -> float:
    """A short warm-up, then a cosine down to a hundredth."""
    return min(1.0, (step + 1) / 50) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def loss_of(model: PreTrainedModel, batches: list[torch.Tensor]) -> float:
    """Mean cross-entropy in nats a token."""
    return sum(float(model(input_ids=b, labels=b).loss) for b in batches) / len(batches)


def train(name: str) -> None:
    """Train a model and write its folder; prints the validation loss as it falls."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    out, plan = HERE / name, PLANS[name]
    sp = tokenizer(out)
    model: PreTrainedModel = (
        LlamaForCausalLM if isinstance(plan.config, LlamaConfig) else Qwen2ForCausalLM
    )(plan.config)
    banned = kept_apart()
    held = list(itertools.islice(blocks(sp, SEEDS["validation"], set()), 8))
    opts = optimizers(model)
    peak = [g["lr"] for o in opts for g in o.param_groups]
    log, start = [], time.time()
    for step, batch in enumerate(itertools.islice(blocks(sp, SEEDS["train"], banned), plan.steps)):
        for group, lr in zip((g for o in opts for g in o.param_groups), peak, strict=True):
            group["lr"] = lr * schedule(step, plan.steps)
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        if step % 50 == 49 or step + 1 == plan.steps:
            log.append(
                {
                    "step": step + 1,
                    "train_loss": round(float(loss.detach()), 4),
                    "validation_loss": round(loss_of(model, held), 4),
                }
            )
            print(json.dumps(log[-1]), f"{time.time() - start:.0f} s", flush=True)
    save(model, out, log)


def save(model: PreTrainedModel, out: Path, log: list[dict[str, float]]) -> None:
    """The folder as transformers and llama.cpp's converter read it, in 16 bits."""
    model.to(torch.float16).save_pretrained(out, safe_serialization=True)
    (out / "tokenizer_config.json").write_text(
        json.dumps(
            {
                "tokenizer_class": "LlamaTokenizer",
                "add_bos_token": True,
                "add_eos_token": False,
                "bos_token": "<s>",
                "eos_token": "</s>",
                "unk_token": "<unk>",
                "legacy": False,
                "model_max_length": CONTEXT,
                "clean_up_tokenization_spaces": False,
                "chat_template": TEMPLATE,
                # Without this the converter to GGUF takes the roles for ordinary text, and
                # llama.cpp spells them out.
                "added_tokens_decoder": {
                    str(FIRST_SPECIAL + i): added(piece) for i, piece in enumerate(SPECIAL)
                },
            },
            indent=2,
        )
        + "\n"
    )
    (out / "training.json").write_text(json.dumps(log, indent=1) + "\n")


def added(piece: str) -> dict[str, Any]:
    """A special token as tokenizer_config.json describes it."""
    return {
        "content": piece,
        "special": True,
        "lstrip": False,
        "rstrip": False,
        "normalized": False,
        "single_word": False,
    }


def write_texts() -> None:
    """The texts and the questions."""
    for folder in ("texts", "tasks"):
        (HERE / folder).mkdir(exist_ok=True)
    for name in TEXT_BYTES:
        (HERE / "texts" / f"{name}.txt").write_text("\n\n".join(text_of(name)) + "\n")
    rng = random.Random(SEEDS["tasks"])
    rows, seen = [], set()
    while len(rows) < 500:
        told = stories.story(rng)
        ask = rng.choice(told.questions)
        query = f"{told.text}\n{stories.ask_text(ask)}"
        if digest(query) in seen:
            continue
        seen.add(digest(query))
        choices = [ask.answer, *ask.others]
        rng.shuffle(choices)
        rows.append(
            {
                "id": len(rows),
                "kind": ask.kind,
                "query": query,
                "choices": choices,
                "gold": choices.index(ask.answer),
            }
        )
    (HERE / "tasks" / "stories.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


@torch.no_grad()
def accuracy(
    model: PreTrainedModel, sp: sentencepiece.SentencePieceProcessor
) -> dict[str, tuple[int, int]]:
    """Right answers and questions by kind: the choice with the highest log-likelihood counts as the
    answer.
    """
    score: dict[str, tuple[int, int]] = {}
    for line in (HERE / "tasks" / "stories.jsonl").read_text().splitlines():
        row = json.loads(line)
        best = max(range(4), key=lambda i: likelihood(model, sp, row["query"], row["choices"][i]))
        right, n = score.get(row["kind"], (0, 0))
        score[row["kind"]] = (right + (best == row["gold"]), n + 1)
    return score


def likelihood(
    model: PreTrainedModel, sp: sentencepiece.SentencePieceProcessor, query: str, choice: str
) -> float:
    """Log-probability in nats of an answer, its full stop included, after the question."""
    head, whole = [BOS, *sp.encode(query)], [BOS, *sp.encode(f"{query} {choice}.")]
    logp = model(input_ids=torch.tensor([whole])).logits[0].log_softmax(-1)
    return sum(float(logp[i - 1, whole[i]]) for i in range(len(head), len(whole)))


def write_card(name: str) -> None:
    """Measure the saved model and say how it was made."""
    torch.set_num_threads(2)
    out = HERE / name
    kind = LlamaForCausalLM if name == "fable" else Qwen2ForCausalLM
    model = kind.from_pretrained(out, dtype=torch.float32).eval()
    sp = tokenizer(out)
    held = list(itertools.islice(blocks(sp, SEEDS["validation"], set()), 8))
    score = accuracy(model, sp)
    right, n = (sum(v[i] for v in score.values()) for i in (0, 1))
    params, log = (
        sum(p.numel() for p in model.parameters()),
        json.loads((out / "training.json").read_text()),
    )
    card = f"""---
license: cc0-1.0
language: en
pipeline_tag: text-generation
---
# {name}

A {model.config.model_type} of {params / 1e6:.2f} million parameters \
({model.config.num_hidden_layers} blocks, width 256, \
vocabulary {VOCAB}, context {CONTEXT}, \
embeddings {"tied" if model.config.tie_word_embeddings else "untied"}), trained from \
nothing on stories that `models/stories.py` writes. \
It knows forty people of a small valley and can follow who has what, \
who is where, who said what, and how many there are. \
It knows nothing else: it is here so that everything in this \
project runs offline on a real, trained model.

- Made by: `python models/make.py {name}`: {log[-1]["step"]} steps of {BATCH * CONTEXT} tokens, \
Muon and AdamW, seed 0.
- Validation loss: {loss_of(model, held):.4f} nats a token on stories of another seed; \
by the steps of training:
  {", ".join(f"{row['step']}: {row['validation_loss']}" for row in log[:: max(1, len(log) // 8)])}.
- Four-way questions (`models/tasks/stories.jsonl`, {n} of them, chance 25 %): \
{right / n:.1%} right.
  By kind: {", ".join(f"{k} {a}/{b}" for k, (a, b) in sorted(score.items()))}.
- Tokenizer: SentencePiece BPE with byte fallback; \
chat roles are `<|user|>`, `<|assistant|>` and `<|system|>`, and
  `</s>` ends every turn.
- Licence: CC0 1.0 (weights, tokenizer and texts).
"""
    (out / "README.md").write_text(card)
    print(card)


def main(argv: list[str]) -> int:
    """Command line: see the top of this file."""
    match argv:
        case [name] if name in PLANS:
            train(name)
        case ["texts"]:
            write_texts()
        case ["card", name] if name in PLANS:
            write_card(name)
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
