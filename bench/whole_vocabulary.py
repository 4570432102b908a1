"""KL divergence from a part of a large vocabulary beside that of the whole.

    python bench/whole_vocabulary.py [--model models/fable,models/fable_mini] \
        [--texts models/texts] [--type Q4_0] [--tokens 10240] [--top-k 512] \
        [--llama-perplexity PATH]

A stock quantization is compared with its 16-bit model over the report text: exactly; from the top
k and tokens drawn from the others, as the stage `baseline` stores them; and with the others as one
token. With PATH, llama.cpp's own program of that name measures the same two files over the same
windows. Last line: `worst=...`, the largest |drawn / exact - 1|.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from rounding import Stages, toolchain

from sintra.core.stage import cores
from sintra.formats.runtime import quantizer
from sintra.formats.runtime.llama_cpp import LlamaModel, open_model
from sintra.probes import baseline
from sintra.probes.divergence import Baseline


def lumped(base: Baseline, rows: slice, logq: np.ndarray) -> np.ndarray:
    """The divergence with all tokens beside the top k as one."""
    logp = base.logp[rows].astype(np.float64)
    stored = np.take_along_axis(logq, base.ids[rows], axis=1).astype(np.float64)
    rest = base.rest[rows].astype(np.float64)
    rest_q = np.log(np.maximum(1 - np.exp(stored).sum(1), 1e-12))
    return (np.exp(logp) * (logp - stored)).sum(1) + np.exp(rest) * (rest - rest_q)


def compare(source: LlamaModel, small: LlamaModel, base: Baseline) -> float:
    """Print the three and return |drawn / exact - 1|."""
    found: dict[str, list[np.ndarray]] = {"exact": [], "drawn": [], "one": []}
    first = source.context // 2
    for i, window in enumerate(base.windows):
        logp, logq = (m.log_probs(window, first).astype(np.float64) for m in (source, small))
        rows = slice(i * len(logp), (i + 1) * len(logp))
        found["exact"].append((np.exp(logp) * (logp - logq)).sum(1))
        found["drawn"].append(base.divergence(rows, logq)[0])
        found["one"].append(lumped(base, rows, logq))
    values = {name: np.stack(parts) for name, parts in found.items()}
    exact = values["exact"]
    for name, value in values.items():
        gap = (value - exact).mean(1)
        print(
            f"  {name:5} mean {value.mean():.6f} ({(value.mean() / exact.mean() - 1):+.2%}; "
            f"difference {gap.mean():+.6f} +- {gap.std(ddof=1) / np.sqrt(len(gap)):.6f})  "
            f"99.9 % {np.quantile(value, 0.999):.4f}",
            flush=True,
        )
    return abs(float(values["drawn"].mean() / exact.mean() - 1))


def by_llama_perplexity(program: Path, files: list[Path], text: Path, windows: int) -> None:
    """Print what llama.cpp's own program says of the 16-bit file and the other."""
    logits = files[1].with_suffix(".logits")
    common = ["-f", str(text), "-c", "512", "--chunks", str(windows), "-t", str(cores())]
    common += ["--kl-divergence-base", str(logits)]
    for file, more in zip(files, ([], ["--kl-divergence"]), strict=True):
        done = subprocess.run(
            [program, "-m", file, *common, *more], capture_output=True, text=True, check=True
        )
    said = re.findall(r"^(Mean|99\.9%)\s+KLD:\s*([\d.]+)", done.stdout, re.MULTILINE)
    values = dict(said)
    print(f"  llama-perplexity: mean {values['Mean']}, 99.9 % {values['99.9%']}", flush=True)


def main() -> None:
    """Every model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/fable,models/fable_mini")
    parser.add_argument("--texts", type=Path, default=Path("models/texts"))
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--tokens", type=int, default=10_240)
    parser.add_argument("--top-k", type=int, default=512)
    parser.add_argument(
        "--llama-perplexity", type=Path, help="llama.cpp's program, as it was built"
    )
    options = parser.parse_args()
    baseline.WHOLE_VOCABULARY = 0  # also of small ones only a part
    worst = 0.0
    with tempfile.TemporaryDirectory() as name:
        tools = toolchain(Path(name))
        for model in map(Path, options.model.split(",")):
            work = Path(name) / model.name
            work.mkdir()
            stages = Stages(model, tools, work)
            text = stages.folder("report", options.texts / "report.txt")
            out = stages.baseline("report", text, options.tokens, options.top_k)
            source, small = stages.gguf / "model.gguf", work / "small.gguf"
            quantizer.quantize(source, small, cores(), kind=options.type)
            base = Baseline.read(out)
            with (
                open_model(source, 512, cores()) as whole,
                open_model(small, 512, cores()) as part,
            ):
                print(f"{model.name}, {options.type}, {whole.vocabulary} tokens", flush=True)
                worst = max(worst, compare(whole, part, base))
            if options.llama_perplexity:
                by_llama_perplexity(
                    options.llama_perplexity,
                    [source, small],
                    options.texts / "report.txt",
                    len(base.windows),
                )
    print(f"worst={worst:.5f}")


if __name__ == "__main__":
    main()
