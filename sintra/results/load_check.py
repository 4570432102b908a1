"""A process of its own that loads a model and answers: a broken file ends only this process.

`python -m sintra.results.load_check '{"model": path, "kv", "threads"}'`: a GGUF by llama.cpp, a
folder by transformers. Prints {"tokens": ids, "text", "runtime"} or {"error"}; exit code 3 with an
error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TypedDict

from sintra.core.process import die_with_parent
from sintra.core.stage import tool_version

TOKENS = 8
PROMPT = "Once upon a time"
CONTEXT = 64  # tokens


class LoadOrder(TypedDict):
    """What is to be loaded."""

    model: str  # path of a GGUF, or of a folder for transformers
    kv: str  # type of the KV cache, for a GGUF
    threads: int


class Reply(TypedDict):
    """What a model answered."""

    tokens: list[int]
    text: str  # "" from transformers, whose tokenizer isn't checked here
    runtime: str  # name and version


def model_reply(order: LoadOrder) -> Reply:
    """Return the model's own continuation of a few words. Raises Infeasible for logits that aren't
    finite.
    """
    path = Path(order["model"])
    if path.is_dir():
        return transformers_reply(path, order["threads"])
    return llama_reply(path, order["kv"], order["threads"])


def llama_reply(path: Path, kv: str, threads: int) -> Reply:
    """Return the greedy continuation by llama.cpp, with the variant's type of KV cache."""
    import numpy as np  # slow: not where only the types are needed

    from sintra.formats.runtime.llama_cpp import log_softmax, open_model  # slow as well

    with open_model(path, CONTEXT, threads, kv=kv) as model:
        tokens: list[int] = []
        ids, position = model.tokenize(PROMPT), 0
        while len(tokens) < TOKENS:
            row = log_softmax(model.logits(ids, position, len(ids) - 1))[-1]
            position += len(ids)
            tokens.append(int(row.argmax()))
            if model.is_end(tokens[-1]):
                break
            ids = np.array(tokens[-1:], dtype=np.int32)
        return {
            "tokens": tokens,
            "text": model.detokenize(tokens),
            "runtime": f"llama-cpp-python {tool_version('llama-cpp-python')}",
        }


def transformers_reply(folder: Path, threads: int) -> Reply:
    """Return the likeliest token after each of TOKENS + 1 fixed tokens by transformers."""
    import numpy as np  # slow: not where only the types are needed

    from sintra.formats.runtime.torch import TorchModel  # slow as well

    model = TorchModel(folder, threads)
    window = np.arange(1, TOKENS + 2, dtype=np.int32) % model.vocabulary
    likeliest = model.log_probs(window, 0).argmax(axis=-1)
    return {"tokens": [int(t) for t in likeliest], "text": "", "runtime": model.runtime}


def print_reply(argv: list[str]) -> int:
    """Print the reply to the order in argv[0] as JSON; return the exit code."""
    die_with_parent()
    try:
        print(json.dumps(model_reply(json.loads(argv[0]))), flush=True)
    except Exception as error:  # whatever it is, the model doesn't answer
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(print_reply(sys.argv[1:]))
