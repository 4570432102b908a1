"""Original and compressed answer the same prompt at once, token by token, in a process of their
own: `python -m sintra.results.dashboard.ab_process ORDER.json`. A JSON object a line goes to stdout as it
happens.
"""

from __future__ import annotations

import fcntl
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from sintra.core.errors import Infeasible, UserError

Row = dict[str, Any]
Tell = Callable[[Row], None]


def main(argv: list[str]) -> int:
    """The process's entry. The order: paths (two GGUFs), prompt, tokens, chat, threads, kv of the
    second, lock (a file: its holder measures a speed, and nobody else may load the machine).
    """
    order = json.loads(Path(argv[0]).read_text())

    def tell(row: Row) -> None:
        print(json.dumps(row), flush=True)

    try:
        with Path(order["lock"]).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                tell({"wait": "a speed is being measured; the answers come after that"})
                fcntl.flock(lock, fcntl.LOCK_SH)
            play(order, tell)
    except (Infeasible, UserError) as error:
        tell({"error": str(error)})
        return 2
    return 0


def play(order: Row, tell: Tell) -> None:
    """Both answers in turn, then how far apart the two models were along the original's."""
    import numpy as np

    from sintra.formats.runtime.llama_cpp import open_model
    from sintra.stages import ab

    paths = [Path(p) for p in order["paths"]]
    prompt = ab.told(paths[0], order["prompt"]) if order["chat"] else order["prompt"]
    size = ab.room(paths[0], [prompt], order["tokens"])
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
        said = spoken(models, ids, order["tokens"], tell)
        p, q = (ab.predicted(m, ids, said[0]).astype(np.float64) for m in models)
        kld = (np.exp(p) * (p - q)).sum(1)
        tell(
            {
                "parted": ab.parting(*said),
                "kld": float(kld.mean()),
                "most": float(kld.max()),
                "tokens": len(kld),
            }
        )


def spoken(models: list[Any], ids: list[int], most: int, tell: Tell) -> list[list[int]]:
    """The two greedy answers, a token each in turn, each told as it comes with its side and the
    tokens/s so far.
    """
    said: list[list[int]] = [[], []]
    voices = [voice(m, ids, most, mine) for m, mine in zip(models, said, strict=True)]
    spent, shown = [0.0, 0.0], ["", ""]
    left = {0, 1}
    while left:
        for side in sorted(left):
            start = time.perf_counter()
            ended = next(voices[side], True)
            spent[side] += time.perf_counter() - start
            text = models[side].text(ids + said[side])[len(models[side].text(ids)) :]
            if not text.endswith("\ufffd") or ended:
                tell(
                    {
                        "side": side,
                        "n": len(said[side]),
                        "text": text[len(shown[side]) :],
                        "tps": len(said[side]) / spent[side],
                    }
                )
                shown[side] = text
            if ended:
                left.discard(side)
    return said


def voice(model: Any, ids: list[int], most: int, said: list[int]) -> Iterator[bool]:
    """One model's greedy answer, appended to `said` a token at a time; yields whether it has ended."""
    import numpy as np

    model.clear()
    logits = model.logits(np.array(ids, np.int32), 0, len(ids) - 1)
    while True:
        said.append(int(logits[-1].argmax()))
        ended = model.is_end(said[-1]) or len(said) >= most
        yield ended
        if ended:
            return
        logits = model.logits(np.array(said[-1:], np.int32), len(ids) + len(said) - 1, 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
