"""Compensated rounding, then refining, beside AutoRound's GGUF export: same calibration text, type
for every tensor and bytes.

    python -m venv peer
    peer/bin/pip install -c constraints.txt auto-round torch gguf sentencepiece protobuf
    python bench/autoround.py --peer peer/bin/python [--model models/fable] \
        [--types q4_k_m,q2_k_s] [--iters 200] [--keep peers]

AutoRound (arXiv 2309.05516) runs with its own settings (200 iterations) on windows of 512 tokens of
the calibration text. The tensor types that it chose are read back from its file, and ours is made
with exactly those. KL divergence to the same 16-bit GGUF over the report text and the far one.
--keep: a folder for AutoRound's files and seconds, which are taken from there where they exist
already. Last line: `worst=...`, the largest ratio of ours to AutoRound's on the report text.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from rounding import Bench, toolchain

from sintra.config.options import ProbeConf
from sintra.formats.gguf.layout import read_layout
from sintra.stages import quantize, refine

SAMPLES = 60


def samples(text: str, target: Path) -> None:
    """Pieces of the text that surely hold 512 tokens each, one a line."""
    size = len(text) // SAMPLES
    rows = [{"text": text[i * size : (i + 1) * size]} for i in range(SAMPLES)]
    target.write_text("".join(json.dumps(r) + "\n" for r in rows))


def kept(
    folder: Path | None, kind: str, made: Callable[[], tuple[Path, float]]
) -> tuple[Path, float]:
    """AutoRound's file and its seconds, from the folder where it has them."""
    if folder is None:
        return made()
    path, about = folder / f"{kind}.gguf", folder / f"{kind}.json"
    if not about.exists():
        folder.mkdir(parents=True, exist_ok=True)
        made_at, seconds = made()
        shutil.move(made_at, path)
        about.write_text(json.dumps({"seconds": round(seconds, 1)}) + "\n")
    return path, json.loads(about.read_text())["seconds"]


def peer(
    python: Path, model: Path, kind: str, texts: Path, out: Path, iters: int
) -> tuple[Path, float]:
    """AutoRound's file and its seconds."""
    data = out.with_suffix(".jsonl")
    samples((texts / "calibration.txt").read_text(), data)
    command = [
        str(python),
        "-m",
        "auto_round",
        "--model",
        str(model),
        "--format",
        f"gguf:{kind}",
        "--iters",
        str(iters),
        "--nsamples",
        str(SAMPLES),
        "--seqlen",
        "512",
        "--dataset",
        str(data),
        "--output_dir",
        str(out),
        "--device_map",
        "cpu",
    ]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - start
    made = sorted(out.rglob("*.gguf"))
    if done.returncode or not made:
        sys.exit(
            f"AutoRound failed ({done.returncode}):\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
        )
    return made[0], seconds


def main() -> None:
    """Compare all types."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--model", type=Path, default=Path("models/fable"))
    parser.add_argument("--texts", type=Path, default=Path("models/texts"))
    parser.add_argument("--types", default="q4_k_m,q2_k_s")
    parser.add_argument("--iters", type=int, default=200)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    ratios = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        tools = toolchain(work)
        (work / "files").mkdir()
        bench = Bench(options.model, options.texts, tools, work / "files")
        for kind in options.types.split(","):
            theirs, seconds = kept(
                options.keep,
                kind,
                lambda kind=kind: peer(
                    options.peer.absolute(),
                    options.model.resolve(),
                    kind,
                    options.texts,
                    work / kind,
                    options.iters,
                ),
            )
            folder = work / f"theirs-{kind}"
            folder.mkdir()
            shutil.copyfile(theirs, folder / "model.gguf")
            print(f"{kind}: AutoRound {words(bench, folder)} in {seconds:.0f} s", flush=True)
            ratios.append(compared(bench, kind, folder, options.model.resolve()))
    print(f"worst={max(ratios):.3f}")


def words(bench: Bench, folder: Path) -> str:
    """A file's divergence on every text and the bytes of its weights."""
    size = sum(t[2] for t in read_layout(folder / "model.gguf")["tensors"])
    return (
        ", ".join(f"{d} {bench.kld(folder, d):.6f}" for d in bench.domains)
        + f", {size} bytes of weights"
    )


def compared(bench: Bench, kind: str, theirs: Path, model: Path) -> float:
    """Ours, compensated and refined, with the types of theirs: what the report text's KLD is of
    theirs.
    """
    rows = read_layout(theirs / "model.gguf")["tensors"]
    types = [[f"^{n.replace('.', '[.]')}$", t] for n, t, _, shape in rows if len(shape) > 1]
    start = time.perf_counter()
    rounded = bench.stage(
        f"ours-{kind}",
        quantize,
        {"type": "Q8_0", "tensors": types, "dropped": []},
        gguf=bench.gguf,
        importance=bench.curvature,
        curvature=bench.curvature,
    )
    seconds = time.perf_counter() - start
    print(f"{kind}: compensated {words(bench, rounded)} in {seconds:.0f} s", flush=True)
    start = time.perf_counter()
    given = {
        "gguf": rounded,
        "source": bench.gguf,
        "model": model,
        "text": bench.text("calibration"),
    }
    probe = ProbeConf()
    params = {
        "tokens": probe.refine_tokens,
        "context": 512,
        "random": probe.calibration_random,
        "steps": probe.refine_steps,
    }
    ours = bench.stage(f"refined-{kind}", refine, params, **given)
    seconds = time.perf_counter() - start
    ratio = bench.kld(ours, "report") / bench.kld(theirs, "report")
    print(
        f"{kind}: refined {words(bench, ours)} in {seconds:.0f} s more; {ratio:.3f} x", flush=True
    )
    if sorted(rows) != sorted(read_layout(ours / "model.gguf")["tensors"]):
        sys.exit("the files differ in the types, sizes or shapes of their tensors")
    return ratio


if __name__ == "__main__":
    main()
