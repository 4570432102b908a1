"""Measure GPTQ and AWQ checkpoints by the protocols of the other probes, run by transformers in the
format's environment.

quality_hf compares with the very baseline that the GGUFs are compared with: the 16-bit GGUF's
log-probabilities over the same tokens. How far that comparison holds is measured first: `agreement`
runs the original checkpoint against it. Every measurement names the runtime that gave it.
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
from sintra.formats.runtime.torch import TorchModel
from sintra.probes.divergence import Baseline, score_model, write_scores
from sintra.probes.measurements import MEASUREMENTS_FILE, parse_measurements, write_measurements
from sintra.probes.timing import measure_speeds

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
else:
    np = lazy.module("numpy")

# nats: two 16-bit runs of one model are thousands of times closer, two models farther
FARTHEST = 0.01


def run_in_environment(context: Context, function: str) -> None:
    """Run a function of this module in the environment whose lock is an input."""
    lock = json.loads((context.inputs["environment"] / "lock.json").read_text())
    python = locked_python(context, context.params["environment"], lock)
    call_in_python(context, python, f"{__name__}:{function}")


def load_checkpoint(context: Context) -> TorchModel:
    """Load the checkpoint: a stage's model/, or the fetched original itself."""
    folder = context.inputs["model"]
    return TorchModel(folder / "model" if (folder / "model").is_dir() else folder, context.threads)


def measure_quality(context: Context) -> None:
    """Write measurements.json and kld.npy, as the quality probe does."""
    base, model = Baseline.read(context.inputs["baseline"]), load_checkpoint(context)
    seed = context.params["seed"]
    write_scores(context, *score_model(model, base, seed, model.runtime, context.say))


def measure_speed(context: Context) -> None:
    """Write measurements.json: pp_tps and tg_tps on this machine, tokens per second."""
    prompt, generate, repeat = (context.params[k] for k in ("prompt", "generate", "repeat"))
    model = load_checkpoint(context)
    speeds = measure_speeds(model, prompt, generate, repeat, context.threads)
    write_measurements(
        context, [replace(m, protocol=f"{m.protocol}; {model.runtime}") for m in speeds]
    )


def measure_memory(context: Context) -> None:
    """Write measurements.json: the peak resident bytes of reading a prompt of the context length.

    Where there is a GPU, its peak is a second measurement.
    """
    import torch  # not on the no-op path

    before, size = peak_rss(), context.params["context"]
    model = load_checkpoint(context)
    model.feed(np.zeros(size, dtype=np.int32))
    model.wait()
    protocol = f"context {size}, {before / 2**20:.0f} MiB before loading; {model.runtime}"
    peaks = {"ram_peak_bytes": float(peak_rss())}
    if model.device == "cuda":
        peaks["vram_peak_bytes"] = float(torch.cuda.max_memory_allocated())
    write_measurements(
        context,
        [
            Measurement(metric, peak, "bytes", "measured", where=machine(), protocol=protocol)
            for metric, peak in peaks.items()
        ],
    )


def measure_agreement(context: Context) -> None:
    """Measure whether the two runtimes start from the same model.

    Writes measurements.json: agree_tokens (share of equal tokens), agree_kld_mean and others.
    Raises Infeasible("refused") where they don't: then no checkpoint can be compared with a GGUF.
    """
    ours = np.load(context.inputs["baseline"] / "tokens.npy")
    run_in_environment(context, "measure_original")
    path = context.out / "tokens.json"
    theirs = np.array(json.loads(path.read_text()), dtype=np.int64)
    path.unlink()
    data = json.loads((context.out / MEASUREMENTS_FILE).read_text())
    rows = {m.metric: m for m in parse_measurements(data)}
    agreement = [
        replace(rows[n], metric=f"agree_{n}") for n in ("kld_mean", "kld_p999", "same_top")
    ]
    if agreement[0].value > FARTHEST:
        raise Infeasible(
            "refused",
            f"the 16-bit GGUF and the checkpoint in {rows['kld_mean'].protocol.split('; ')[-1]} "
            f"are {agreement[0].value:.3g} nats apart: the formats can't be compared",
        )
    write_measurements(context, [*agreement, token_agreement(ours, theirs)])


def token_agreement(ours: NDArray[np.int32], theirs: NDArray[np.int64]) -> Measurement:
    """Return the share of tokens in common, in blocks that match in order (difflib's ratio).

    ours: token ids, (windows, context); theirs: those of the whole text, (n,). The windows' first
    tokens, where begin of text stands, count as equal.
    """
    from difflib import SequenceMatcher  # not on the no-op path

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
    """Write the 16-bit checkpoint's measurements, and its tokenizer's tokens to tokens.json.

    Runs in the environment.
    """
    import transformers  # optional, slow to import

    measure_quality(context)
    loader: Any = transformers.AutoTokenizer
    tokenizer = loader.from_pretrained(context.inputs["model"], trust_remote_code=False)
    text = (context.inputs["text"] / "text.txt").read_text()
    (context.out / "tokens.json").write_text(
        json.dumps(tokenizer(text, add_special_tokens=False).input_ids)
    )


AGREEMENT = Stage(
    "agreement",
    1,
    measure_agreement,
    metrics=("agree_tokens", "agree_kld_mean"),
    optional=True,
    files=(MEASUREMENTS_FILE,),
)
QUALITY = Stage(
    "quality_hf",
    1,
    lambda context: run_in_environment(context, "measure_quality"),
    optional=True,
    metrics=("kld_mean", "kld_p999", "same_top", "ppl", "ppl_ratio"),
    files=(MEASUREMENTS_FILE, "kld.npy"),
)
SPEED = Stage(
    "speed_hf",
    1,
    lambda context: run_in_environment(context, "measure_speed"),
    (),
    "alone",
    platform=True,
    metrics=("pp_tps", "tg_tps"),
    files=(MEASUREMENTS_FILE,),
    optional=True,
)
MEMORY = Stage(
    "memory_hf",
    2,
    lambda context: run_in_environment(context, "measure_memory"),
    platform=True,
    metrics=("ram_peak_bytes", "vram_peak_bytes"),
    files=(MEASUREMENTS_FILE,),
    optional=True,
)
