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
import json
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from rounding import ROOT, mean, toolchain

from sintra.core.stage import Context, cores
from sintra.formats.gguf.imatrix import load_importance
from sintra.formats.runtime import quantizer
from sintra.formats.runtime.llama_cpp import TOKENS_FILE, LlamaModel
from sintra.probes import baseline, quality
from sintra.probes.measurements import parse_measurements
from sintra.stages import convert, curvature, trace
from sintra.stages.rounding.whole_file import compensate_file

TOKENS = 40_960
STORIES = ROOT / "models" / "texts" / "calibration.txt"


class Bench:
    """One model in a scratch folder."""

    def __init__(self, model: Path, texts: Path, work: Path, kind: str, judged: int) -> None:
        self.hf, self.texts, self.work, self.kind = model.resolve(), texts, work, kind
        tools = work if (work / "gguf").exists() else toolchain(work)
        self.gguf = self.stage("gguf", convert, {"type": "f16"}, model=self.hf, toolchain=tools)
        domains = {
            "prose": self.folder("prose", texts / "report.txt"),
            "code": self.folder("code", texts / "far.txt"),
            "own": self.own("own-judged", 3, judged, 1.0, 0.5),
        }
        params = {"context": 512, "tokens": judged, "top_k": 512}
        self.base = {
            d: self.stage(f"base-{d}", baseline, params, gguf=self.gguf, text=folder)
            for d, folder in domains.items()
        }

    def stage(self, label: str, module: object, params: dict, **inputs: Path) -> Path:
        """Run a stage into a folder of its own; what is there already stays."""
        out = self.work / label
        if not out.exists():
            part = self.work / f"{label}.part"
            shutil.rmtree(part, ignore_errors=True)
            part.mkdir()
            module.run(Context(params, inputs, part, {}, self.work / f"keep-{label}", cores()))
            part.rename(out)
        return out

    def folder(self, label: str, text: Path) -> Path:
        """A text as the fetch stage makes it."""
        folder = self.work / f"text-{label}"
        folder.mkdir(exist_ok=True)
        shutil.copy(text, folder / "text.txt")
        return folder

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
        params = {"tokens": TOKENS, "context": 512, "random": 0.2}
        label, start = row.replace(":", "-"), time.perf_counter()
        given = {"model": self.hf, "gguf": self.gguf, "text": self.calibration(row)}
        matrices = self.stage(f"curvature-{label}", curvature, params, **given)
        ours = self.rounded(label, matrices)
        found = {d: self.kld(ours, d) for d in self.base}
        words = "  ".join(f"{d} {v:.4f}" for d, v in found.items())
        seconds = time.perf_counter() - start
        print(
            f"  {row:10} {words}  mean {mean(list(found.values())):.4f}  {seconds:.0f} s",
            flush=True,
        )
        return found

    def rounded(self, label: str, matrices: Path) -> Path:
        """The compensated file."""
        out = self.work / f"ours-{label}"
        if out.exists():
            return out
        tensors = [("token_embd", "Q8_0"), (".*", self.kind)]
        source, files = self.gguf / "model.gguf", []
        part = self.work / f"ours-{label}.part"
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        for name, matrix in (("model.gguf", load_importance(matrices, [])), ("plain.gguf", None)):
            files.append(part / name)
            quantizer.quantize(
                source, files[-1], cores(), kind="Q8_0", tensors=tensors, matrix=matrix
            )
        keep = self.work / f"keep-{label}"
        compensate_file(files[0], source, matrices, keep, lambda _: None, alternative=files[1])
        part.rename(out)
        return out

    def kld(self, folder: Path, domain: str) -> float:
        """Mean KL divergence over a domain's text."""
        label = f"q-{folder.name}-{domain}"
        out = self.stage(label, quality, {"seed": 0}, gguf=folder, baseline=self.base[domain])
        rows = parse_measurements(json.loads((out / "measurements.json").read_text()))
        return next(m.value for m in rows if m.metric == "kld_mean")


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
