"""Measure how far a variant's predictions are from the 16-bit model's, on the same tokens.

Mean KL divergence in nats (the primary number), its 99.9th percentile, the share of positions with
the same top token, perplexity and its ratio to the baseline's, and bits per byte of text, by which
models with different tokenizers can be compared. Standard errors are bootstrapped over windows,
since tokens within one are correlated. kld.npy has every position's divergence, so that two
variants can be compared pair by pair.
"""

from __future__ import annotations

from sintra.core.stage import Context, Stage
from sintra.formats.runtime.llama_cpp import open_model
from sintra.probes.divergence import Baseline, score_model, write_scores
from sintra.probes.measurements import MEASUREMENTS_FILE


def run(context: Context) -> None:
    """Write measurements.json and kld.npy, (windows, scored positions), nats.

    The metrics' names begin with params["prefix"].
    """
    base = Baseline.read(context.inputs["baseline"])
    size, kv = base.windows.shape[1], context.params.get("kv", "f16")
    with open_model(context.inputs["gguf"] / "model.gguf", size, context.threads, kv=kv) as model:
        measurements, kld = score_model(model, base, context.params["seed"], "", context.say)
    write_scores(context, measurements, kld)


STAGE = Stage(
    "quality",
    2,
    run,
    tools=("llama-cpp-python", "numpy"),
    metrics=("kld_mean", "kld_p999", "same_top", "ppl", "ppl_ratio", "bits_per_byte"),
    files=(MEASUREMENTS_FILE, "kld.npy"),
    title="Measure quality",
)
