"""Compensated rounding beside AutoRound's GGUF export: same calibration text, same type for every tensor, same bytes.

    python -m venv peer && peer/bin/pip install -c constraints.txt auto-round torch
    python bench/autoround.py --peer peer/bin/python [--model models/fable] [--types q4_k_m,q2_k_s] [--iters 200]

AutoRound (arXiv 2309.05516) runs with its own settings (200 iterations) on windows of 512 tokens of the calibration text. The
tensor types that it chose are read back from its file, and ours is made with exactly those. KL divergence to the same
16-bit GGUF over the report text. Last line: `worst=...`, the largest ratio of ours to AutoRound's.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rounding import Bench, toolchain

from sintra.layout import read_layout
from sintra.stages import quantize

SAMPLES = 60


def samples(text: str, target: Path) -> None:
    """Pieces of the text that surely hold 512 tokens each, one a line."""
    size = len(text) // SAMPLES
    rows = [{"text": text[i * size : (i + 1) * size]} for i in range(SAMPLES)]
    target.write_text("".join(json.dumps(r) + "\n" for r in rows))


def peer(python: Path, model: Path, kind: str, texts: Path, out: Path, iters: int) -> tuple[Path, float]:
    """AutoRound's file and its seconds."""
    data = out.with_suffix(".jsonl")
    samples((texts / "calibration.txt").read_text(), data)
    command = [str(python), "-m", "auto_round", "--model", str(model), "--format", f"gguf:{kind}", "--iters", str(iters),
               "--nsamples", str(SAMPLES), "--seqlen", "512", "--dataset", str(data), "--output_dir", str(out),
               "--device_map", "cpu"]  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    made = sorted(out.rglob("*.gguf"))
    if done.returncode or not made:
        sys.exit(f"AutoRound failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")
    return made[0], seconds


def main() -> None:
    """Compare all types."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("models/fable"))
    parser.add_argument("--texts", type=Path, default=Path("models/texts"))
    parser.add_argument("--types", default="q4_k_m,q2_k_s")
    parser.add_argument("--iters", type=int, default=200)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tools = toolchain(work)
        (work / "files").mkdir()
        bench = Bench(options.model, options.texts, tools, work / "files")
        for kind in options.types.split(","):
            theirs, seconds = peer(options.peer.absolute(), options.model.resolve(), kind, options.texts, work / kind,
                                   options.iters)  # fmt: skip
            layout = read_layout(theirs)
            folder = work / f"theirs-{kind}"
            folder.mkdir()
            theirs.rename(folder / "model.gguf")
            types = [[f"^{n.replace('.', '[.]')}$", t] for n, t, _, shape in layout["tensors"] if len(shape) > 1]
            start = time.perf_counter()
            ours = bench.stage(f"ours-{kind}", quantize, {"type": "Q8_0", "tensors": types, "dropped": []}, gguf=bench.gguf,
                               importance=bench.curvature, curvature=bench.curvature)  # fmt: skip
            own = time.perf_counter() - start
            sizes = [sum(t[2] for t in read_layout(f / "model.gguf")["tensors"]) for f in (folder, ours)]
            a, b = bench.kld(folder, "report"), bench.kld(ours, "report")
            ratios.append(b / a)
            print(f"{kind}: AutoRound {a:.6f} in {seconds:.0f} s, {sizes[0]} bytes of weights; ours {b:.6f} in {own:.0f} s, "
                  f"{sizes[1]} bytes; {b / a:.3f} x", flush=True)  # fmt: skip
    print(f"worst={max(ratios):.3f}")


if __name__ == "__main__":
    main()
