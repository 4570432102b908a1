"""A process of its own that loads a model and answers: what a broken file breaks is this process,
not the one that asks.

`python -m sintra.results.load_check '{"model": path, "kv", "threads"}'`: a GGUF by llama.cpp, a folder by
transformers. Prints {"tokens": ids, "text", "runtime"} or {"error"}; exit code 3 with an error.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

TOKENS = 8
PROMPT = "Once upon a time"
CONTEXT = 64


def answer(order: dict[str, Any]) -> dict[str, Any]:
    """The model's own continuation of a few words. Raises Infeasible for logits that are no
    numbers.
    """
    path = Path(order["model"])
    return (
        by_transformers(path, order["threads"])
        if path.is_dir()
        else by_llama(path, order["kv"], order["threads"])
    )


def by_llama(path: Path, kv: str, threads: int) -> dict[str, Any]:
    """Greedily, with the KV cache that the variant is to be run with."""
    import numpy as np

    from sintra.core.stage import tool_version
    from sintra.formats.runtime.llama_cpp import log_softmax, open_model

    with open_model(path, CONTEXT, threads, kv=kv) as model:
        ids, at, said = model.tokenize(PROMPT), 0, list[int]()
        while len(said) < TOKENS:
            row = log_softmax(model.logits(ids, at, len(ids) - 1))[-1]
            at += len(ids)
            said.append(int(row.argmax()))
            if model.is_end(said[-1]):
                break
            ids = np.array(said[-1:], dtype=np.int32)
        return {
            "tokens": said,
            "text": model.detokenize(said),
            "runtime": f"llama-cpp-python {tool_version('llama-cpp-python')}",
        }


def by_transformers(folder: Path, threads: int) -> dict[str, Any]:
    """The likeliest token after each of a few: whether the tokenizer's words are right is not asked
    here.
    """
    import numpy as np

    from sintra.formats.runtime.torch import TorchModel

    model = TorchModel(folder, threads)
    window = np.arange(1, TOKENS + 2, dtype=np.int32) % model.vocabulary
    said = model.log_probs(window, 0).argmax(axis=-1)
    return {"tokens": [int(t) for t in said], "text": "", "runtime": model.runtime}


def main(argv: list[str]) -> int:
    """The process's entry."""
    from sintra.core.process import die_with_parent

    die_with_parent()
    try:
        print(json.dumps(answer(json.loads(argv[0]))), flush=True)
    except Exception as error:  # whatever it is, the model doesn't answer
        print(json.dumps({"error": f"{type(error).__name__}: {error}"}), flush=True)
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
