"""What compensated rounding costs: time and peak memory of each part, and what that means for
larger models.

    python bench/rounding_cost.py [--model models/fable | --layers 18] \
        [--tokens 8192] [--type Q4_K_S]

Without --model: a Llama of random weights, width 1024 and 18 blocks (306 M parameters). Every part
runs in a process of its own, whose peak resident memory is reported (files that are mapped count as
far as they were touched). The extrapolation counts multiply-adds as below and takes the rates
measured here.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rounding import ROOT, toolchain

from sintra.core.stage import Context, cores
from sintra.stages.rounding.damped import CompensationOptions

# (blocks, width, inner width, width of key and value, vocabulary)
LARGER = {
    "Llama-3.2-1B": (16, 2048, 8192, 512, 128256),
    "Llama-3.1-8B": (32, 4096, 14336, 1024, 128256),
}


def shapes(blocks: int, width: int, inner: int, kv: int, vocabulary: int) -> list[tuple[int, int]]:
    """(rows, columns) of every matrix with a curvature."""
    block = [
        (width, width),
        (kv, width),
        (kv, width),
        (width, width),
        (inner, width),
        (inner, width),
        (width, inner),
    ]
    return block * blocks + [(vocabulary, width)]


def work_of(
    shape: tuple[int, int, int, int, int], tokens: int, random: float = 0.2
) -> tuple[float, float]:
    """Floating-point operations of the curvature pass and of the rounding.

    Curvature: two a weight and token forward; and two a token and entry of the three distinct
    square matrices of width and the one of inner width. Rounding: a pass over a matrix costs 2 x
    rows x columns^2, GPTQ and every sweep half of one, every measure one; Cholesky factor and
    inverse 2/3 x columns^3 together.
    """
    blocks, width, inner, _, _ = shape
    all_tokens = tokens / (1 - random)
    matrices = shapes(*shape)
    forward = 2 * sum(r * c for r, c in matrices[:-1])
    grams = 2 * blocks * (3 * width**2 + inner**2)
    sweeps = CompensationOptions().sweeps
    passes = 0.5 + 0.5 * sweeps + (sweeps + 2)
    return all_tokens * (forward + grams), sum(
        2 * passes * r * c * c + 2 / 3 * c**3 for r, c in matrices
    )


def memory_of(shape: tuple[int, int, int, int, int]) -> tuple[float, float]:
    """Bytes: of a block and its matrices in float32; of the widest tensor's H, its Cholesky factor
    and inverse in float64.
    """
    _, width, inner, _, _ = shape
    weights = 4 * sum(r * c for r, c in shapes(1, *shape[1:])[:-1])
    return weights + 4 * (3 * width**2 + inner**2), inner**2 * (4 + 4 + 3 * 8)


def apart(label: str, part: Callable[..., None], *args: object) -> tuple[float, float]:
    """Run in a fresh process: seconds and peak resident bytes."""
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    process = context.Process(target=measured, args=(queue, part, args))
    process.start()
    seconds, peak = queue.get()
    process.join()
    print(f"  {label:28} {seconds:8.1f} s  {peak / 1e6:8.0f} MB", flush=True)
    return seconds, peak


def measured(
    queue: multiprocessing.Queue, part: Callable[..., None], args: tuple[object, ...]
) -> None:
    """The other process."""
    start = time.perf_counter()
    part(*args)
    queue.put(
        (time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    )


def run_stage(name: str, params: dict, inputs: dict[str, Path], out: Path) -> None:
    """One stage into a folder."""
    from sintra.core import plugins

    out.mkdir(exist_ok=True)
    plugins.load_step(name).run(Context(params, inputs, out, {}, out.with_suffix(".keep"), cores()))


def random_model(folder: Path, layers: int) -> None:
    """A Llama with fable's tokenizer and random weights."""
    sys.path.insert(0, str(ROOT / "models"))
    import make
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir()
    config = LlamaConfig(
        vocab_size=2048,
        hidden_size=1024,
        intermediate_size=4096,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=16,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
    )
    shutil.copy(ROOT / "models" / "fable" / "tokenizer.model", folder)
    make.save(LlamaForCausalLM(config), folder, [])


def shape_of(model: Path) -> tuple[int, int, int, int, int]:
    """From config.json."""
    c = json.loads((model / "config.json").read_text())
    kv = c["hidden_size"] * c["num_key_value_heads"] // c["num_attention_heads"]
    return c["num_hidden_layers"], c["hidden_size"], c["intermediate_size"], kv, c["vocab_size"]


def main() -> None:
    """Measure, then extrapolate."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path)
    parser.add_argument("--layers", type=int, default=18)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--type", default="Q4_K_S")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tools = toolchain(work)
        model = options.model.resolve() if options.model else work / "model"
        if not options.model:
            random_model(model, options.layers)
        shape = shape_of(model)
        (work / "text").mkdir()
        shutil.copy(ROOT / "models" / "texts" / "calibration.txt", work / "text" / "text.txt")
        print(
            (
                f"{sum(r * c for r, c in shapes(*shape)) / 1e6:.0f} M parameters in matrices, "
                f"{cores()} cores"
            ),
            flush=True,
        )
        gguf, plain = work / "gguf", {"type": options.type, "tensors": []}
        apart(
            "convert",
            run_stage,
            "convert",
            {"type": "f16"},
            {"model": model, "toolchain": tools},
            gguf,
        )
        limits = {"tokens": options.tokens, "context": 512, "random": 0.2}
        given = {"model": model, "gguf": gguf, "text": work / "text"}
        first, _ = apart("curvature", run_stage, "curvature", limits, given, work / "curvature")
        nearest, _ = apart(
            f"{options.type}, nearest",
            run_stage,
            "quantize",
            plain,
            {"gguf": gguf},
            work / "nearest",
        )
        both, _ = apart(
            f"{options.type}, compensated",
            run_stage,
            "quantize",
            plain | {"dropped": []},
            {"gguf": gguf, "curvature": work / "curvature"},
            work / "ours",
        )
    done = work_of(shape, options.tokens)
    rates = [done[0] / first, done[1] / (both - nearest)]
    print(f"  {rates[0] / 1e9:.1f} and {rates[1] / 1e9:.1f} GFLOP/s in curvature and rounding")
    for title, large in LARGER.items():
        flops, (walk, widest) = work_of(large, 40960), memory_of(large)
        disk = 4 * large[0] * (3 * large[1] ** 2 + large[2] ** 2)
        hours = [f / r / 3600 for f, r in zip(flops, rates, strict=True)]
        print(
            f"{title}, extrapolated to 40960 tokens: curvature {hours[0]:.1f} h, {walk / 1e9:.1f} "
            f"GB; rounding {hours[1]:.1f} h a file, {widest / 1e9 + 1:.1f} GB; {disk / 1e9:.0f} "
            "GB of disk"
        )


if __name__ == "__main__":
    main()
