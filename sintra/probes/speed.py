"""Prompt processing (pp) and token generation (tg) on this machine, as llama-bench measures them."""

from __future__ import annotations

from sintra.llama import opened
from sintra.protocols import speeds
from sintra.report import write
from sintra.stage import Context, Stage


def run(context: Context) -> None:
    """See sintra.protocols.speeds."""
    prompt, generate, repeat = (context.params[k] for k in ("prompt", "generate", "repeat"))
    kv = context.params.get("kv", "f16")
    with opened(
        context.inputs["gguf"] / "model.gguf", max(prompt, generate), context.threads, kv=kv
    ) as model:
        write(context, speeds(model, prompt, generate, repeat, context.threads))


STAGE = Stage(
    "speed", 1, run, ("llama-cpp-python",), "alone", platform=True, metrics=("pp_tps", "tg_tps")
)
