"""What a model should be calibrated on: several texts, each judged on prose, code and own text.

    python bench/calibration.py [--model models/fable] [--texts models/texts] [--type Q4_0] \
        [--rows stories,prose,own,own:0.8,mixed]

Every linear layer in one type, compensated, the token embedding in Q8_0; all from the same number
of tokens (40,960, and a fifth of random ones). Rows: `stories` (the bundled text), `prose`
(calibration.txt of --texts), `own` (written by the model: temperature 1, half of it conversations;
`own:0.8` at another temperature, `own:1:0` with another share of conversations), `mixed` (half
prose, half own). Judged on report.txt and far.txt of --texts, and on own text of another seed.
Last line: the row with the least geometric mean over the three.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from rounding import ROOT, TOKENS, Stages, mean, toolchain

from sintra.formats.runtime.llama_cpp import TOKENS_FILE, LlamaModel
from sintra.stages import trace

STORIES = ROOT / "models" / "texts" / "calibration.txt"


class Bench(Stages):
    """One model in a scratch folder."""

    def __init__(self, model: Path, texts: Path, work: Path, kind: str, judged: int) -> None:
        super().__init__(model, work if (work / "gguf").exists() else toolchain(work), work)
        self.texts, self.kind = texts, kind
        domains = {
            "prose": self.folder("prose-judged", texts / "report.txt"),
            "code": self.folder("code", texts / "far.txt"),
            "own": self.own("own-judged", 3, judged, 1.0, 0.5),
        }
        self.base = {d: self.baseline(d, folder, judged) for d, folder in domains.items()}

    def own(self, label: str, seed: int, tokens: int, temperature: float, chat: float) -> Path:
        """A text that the model writes."""
        params = {"tokens": tokens, "seed": seed, "temperature": temperature, "chat": chat}
        return self.stage(label, trace, params, gguf=self.gguf)

    def calibration(self, row: str) -> Path:
        """The text of a row."""
        name, *numbers = row.split(":")
        if name == "own":
            temperature, chat = (*map(float, numbers), *(1.0, 0.5)[len(numbers) :])
            return self.own(row.replace(":", "-"), 1, TOKENS, temperature, chat)
        if name == "mixed":
            return self.mixed()
        return self.folder(name, STORIES if name == "stories" else self.texts / "calibration.txt")

    def mixed(self) -> Path:
        """Half prose, half own."""
        folder = self.work / "text-mixed"
        folder.mkdir(exist_ok=True)
        own = np.load(self.calibration("own") / TOKENS_FILE)[: TOKENS // 2]
        reader = LlamaModel(self.gguf / "model.gguf", 512, 1, vocab_only=True)
        prose = reader.tokenize((self.texts / "calibration.txt").read_text())[: TOKENS // 2]
        reader.close()
        np.save(folder / TOKENS_FILE, np.concatenate([own, prose]).astype(np.int32))
        return folder

    def judge(self, row: str) -> dict[str, float]:
        """Domain -> mean KL divergence after calibration on a row's text."""
        label, start = row.replace(":", "-"), time.perf_counter()
        matrices = self.measured_curvature(f"curvature-{label}", self.calibration(row))
        plain = [self.nearest(f"{label}-{bool(m)}", self.kind, m) for m in (None, matrices)]
        ours = self.compensated(f"ours-{label}", plain, matrices)
        found = {d: self.kld(ours, d) for d in self.base}
        words = "  ".join(f"{d} {v:.4f}" for d, v in found.items())
        seconds = time.perf_counter() - start
        print(
            f"  {row:10} {words}  mean {mean(list(found.values())):.4f}  {seconds:.0f} s",
            flush=True,
        )
        return found


def main() -> None:
    """Every model, every row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/fable")
    parser.add_argument("--texts", type=Path, default=ROOT / "models" / "texts")
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--rows", default="stories,prose,own,own:0.8,mixed")
    parser.add_argument("--judged", type=int, default=10_240, help="tokens of each domain")
    parser.add_argument("--cache", type=Path, help="kept between runs; default: a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        for model in map(Path, options.model.split(",")):
            work = (options.cache or Path(scratch)).resolve() / model.name
            work.mkdir(parents=True, exist_ok=True)
            bench = Bench(model, options.texts, work, options.type, options.judged)
            print(f"{model.name}, {options.type}", flush=True)
            found = {row: bench.judge(row) for row in options.rows.split(",")}
            best = min(found, key=lambda row: mean(list(found[row].values())))
            print(f"{model.name}: best={best}")


if __name__ == "__main__":
    main()
