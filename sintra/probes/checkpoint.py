"""The probes of GPTQ and AWQ checkpoints, by the protocols of the others, run by transformers in
the format's environment.

quality_hf compares with the very baseline that the GGUFs are compared with: the 16-bit GGUF's
log-probabilities over the same tokens. What that is worth is measured first: `agreement` runs the
original checkpoint against it. Every measurement says which runtime gave it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from sintra.core import lazy
from sintra.core.errors import Infeasible
from sintra.core.process import peak_rss
from sintra.core.stage import Context, Stage, machine
from sintra.core.types import Measurement
from sintra.formats.runtime.call import call_in_python
from sintra.formats.runtime.environments import locked_python
from sintra.probes.divergence import Baseline, score_model
from sintra.probes.measurements import parse_measurements, write_measurements
from sintra.probes.timing import measure_speeds

if TYPE_CHECKING:
    import numpy as np
else:
    np = lazy.module("numpy")

FARTHEST = (
    0.01  # nats: two 16-bit runs of one model are thousands of times closer, two models farther
)


def run_in_environment(context: Context, function: str) -> None:
    """Run a function of this module in the environment whose lock is an input."""
    lock = json.loads((context.inputs["environment"] / "lock.json").read_text())
    call_in_python(
        context,
        locked_python(context, context.params["environment"], lock),
        f"{__name__}:{function}",
    )


def load_checkpoint(context: Context) -> Any:
    """The checkpoint: a stage's model/, or the fetched original itself."""
    from sintra.formats.runtime.torch import TorchModel

    folder = context.inputs["model"]
    return TorchModel(folder / "model" if (folder / "model").is_dir() else folder, context.threads)


def measure_quality(context: Context) -> None:
    """Write measurements.json and kld.npy, as the quality probe does."""
    base, model = Baseline.read(context.inputs["baseline"]), load_checkpoint(context)
    found, kld = score_model(model, base, context.params["seed"], model.runtime, context.say)
    np.save(context.out / "kld.npy", kld.astype(np.float32))
    prefix = context.params.get("prefix", "")
    write_measurements(context, [replace(m, metric=prefix + m.metric) for m in found])


def measure_speed(context: Context) -> None:
    """pp_tps and tg_tps on this machine."""
    prompt, generate, repeat = (context.params[k] for k in ("prompt", "generate", "repeat"))
    model = load_checkpoint(context)
    found = measure_speeds(model, prompt, generate, repeat, context.threads)
    write_measurements(
        context, [replace(m, protocol=f"{m.protocol}; {model.runtime}") for m in found]
    )


def measure_memory(context: Context) -> None:
    """Peak resident memory of reading a prompt of the context length, and the peak on a GPU where
    there is one.
    """
    import torch

    before, size = peak_rss(), context.params["context"]
    model = load_checkpoint(context)
    model.feed(np.zeros(size, dtype=np.int32))
    model.wait()
    how = f"context {size}, {before / 2**20:.0f} MiB before loading; {model.runtime}"
    found = [
        Measurement(
            "ram_peak_bytes", float(peak_rss()), "bytes", "measured", where=machine(), protocol=how
        )
    ]
    if model.device == "cuda":
        vram = float(torch.cuda.max_memory_allocated())
        found.append(
            Measurement("vram_peak_bytes", vram, "bytes", "measured", where=machine(), protocol=how)
        )
    write_measurements(context, found)


def measure_agreement(context: Context) -> None:
    """Whether the two runtimes start from the same model: agree_tokens (share of equal tokens) and
    agree_kld_mean.

    Raises Infeasible("refused") where they don't: then no checkpoint can be compared with a GGUF.
    """
    ours = np.load(context.inputs["baseline"] / "tokens.npy")
    run_in_environment(context, "original")
    path = context.out / "tokens.json"
    theirs = np.array(json.loads(path.read_text()), dtype=np.int64)
    path.unlink()
    rows = {
        m.metric: m
        for m in parse_measurements(json.loads((context.out / "measurements.json").read_text()))
    }
    kept = [replace(rows[n], metric=f"agree_{n}") for n in ("kld_mean", "kld_p999", "same_top")]
    if kept[0].value > FARTHEST:
        raise Infeasible(
            "refused",
            f"the 16-bit GGUF and the checkpoint in {rows['kld_mean'].protocol.split('; ')[-1]} "
            f"are {kept[0].value:.3g} nats apart: the formats can't be compared",
        )
    kept.append(token_agreement(ours, theirs))
    write_measurements(context, kept)


def token_agreement(ours: Any, theirs: Any) -> Measurement:
    """The share of tokens in common, in blocks that match in order (difflib's ratio), over the text
    of the windows; the windows' first tokens, where begin of text stands, count as equal.
    """
    from difflib import SequenceMatcher

    one, two = ours.reshape(-1), theirs[: ours.size]
    first = np.arange(two.size) % ours.shape[1] == 0
    one = np.where(first, two, one[: two.size]) if two.size else one
    same = float((one == two).mean()) if two.size else 0.0
    if same < 1:
        same = SequenceMatcher(None, one.tolist(), two.tolist(), autojunk=False).ratio()
    return Measurement(
        "agree_tokens",
        same,
        "1",
        "exact",
        n=int(one.size),
        protocol="llama.cpp's and transformers' tokens of the search text, in order",
    )


def measure_original(context: Context) -> None:
    """In the environment: the 16-bit checkpoint's measurements against the baseline, and its
    tokenizer's tokens.
    """
    import transformers

    measure_quality(context)
    loader: Any = transformers.AutoTokenizer
    tokenizer = loader.from_pretrained(context.inputs["model"], trust_remote_code=False)
    text = (context.inputs["text"] / "text.txt").read_text()
    (context.out / "tokens.json").write_text(
        json.dumps(tokenizer(text, add_special_tokens=False).input_ids)
    )


AGREEMENT = Stage(
    "agreement", 1, measure_agreement, metrics=("agree_tokens", "agree_kld_mean"), optional=True
)
QUALITY = Stage(
    "quality_hf",
    1,
    lambda c: run_in_environment(c, "quality"),
    optional=True,
    metrics=("kld_mean", "kld_p999", "same_top", "ppl", "ppl_ratio"),
)
SPEED = Stage(
    "speed_hf",
    1,
    lambda c: run_in_environment(c, "speed"),
    (),
    "alone",
    platform=True,
    metrics=("pp_tps", "tg_tps"),
    optional=True,
)
MEMORY = Stage(
    "memory_hf",
    2,
    lambda c: run_in_environment(c, "memory"),
    platform=True,
    metrics=("ram_peak_bytes", "vram_peak_bytes"),
    optional=True,
)
