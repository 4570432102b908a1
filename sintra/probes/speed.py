"""Measure prompt processing (pp) and token generation (tg) here, as llama-bench does."""

from __future__ import annotations

from sintra.core.stage import Context, Stage
from sintra.formats.runtime.llama_cpp import open_model
from sintra.probes.depth import measure_depths
from sintra.probes.measurements import MEASUREMENTS_FILE, write_measurements
from sintra.probes.timing import measure_speeds


def run(context: Context) -> None:
    """Write measurements.json: pp_tps and tg_tps, tokens per second."""
    prompt, generate, repeat = (context.params[k] for k in ("prompt", "generate", "repeat"))
    kv = context.params.get("kv", "f16")
    gguf = context.inputs["gguf"] / "model.gguf"
    with open_model(gguf, max(prompt, generate), context.threads, kv=kv) as model:
        rows = measure_speeds(model, prompt, generate, repeat, context.threads)
    deep = measure_depths(context, gguf, rows[0].value, kv)
    write_measurements(context, [*rows, *deep])


STAGE = Stage(
    "speed",
    1,
    run,
    ("llama-cpp-python",),
    "alone",
    platform=True,
    metrics=("pp_tps", "tg_tps"),
    files=(MEASUREMENTS_FILE,),
    title="Measure speed",
)
