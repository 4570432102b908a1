"""Compensated rounding beside nearest rounding: the same types and bytes, KL divergence to the
16-bit model.

    python bench/rounding.py [--model models/fable,models/fable_mini] \
        [--texts models/texts] [--types Q4_K,Q2_K]

Every linear layer in one type, the token embedding (which may also be the output) in Q8_0. Nearest
is the better of with and without importance matrix; some types llama.cpp doesn't make without.
texts: a folder with calibration.txt,
report.txt and, for the far domain, far.txt. Last line: `geo_mean=... worst=... far_domain=...` over
the types of at most 5.6 bits; far_domain is the ratio of its geometric mean to the report text's
("none" without far.txt).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from sintra.core.errors import Infeasible
from sintra.core.stage import Context, cores
from sintra.formats.runtime import quantizer
from sintra.probes import baseline, quality
from sintra.probes.measurements import parse_measurements
from sintra.stages import convert, curvature
from sintra.stages.rounding.grids import GRIDS
from sintra.stages.rounding.whole_file import compensate_file

LIMIT = 5.6
TOKENS = 40_960  # of calibration
ROOT = Path(__file__).resolve().parent.parent


class Stages:
    """One model's files, made by the product's stages in a scratch folder."""

    base: dict[str, Path]  # domain -> the 16-bit model's log-probabilities on its text

    def __init__(self, model: Path, tools: Path, work: Path) -> None:
        self.work, self.hf = work, model.resolve()
        self.gguf = self.stage("gguf", convert, {"type": "f16"}, model=self.hf, toolchain=tools)

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

    def measured_curvature(self, label: str, text: Path) -> Path:
        """The curvature over a folder's text, from as much of it as a study takes."""
        params = {"tokens": TOKENS, "context": 512, "random": 0.2}
        return self.stage(label, curvature, params, model=self.hf, gguf=self.gguf, text=text)

    def baseline(self, domain: str, text: Path, tokens: int, top_k: int = 512) -> Path:
        """The 16-bit model's log-probabilities on a folder's text."""
        params = {"context": 512, "tokens": tokens, "top_k": top_k}
        return self.stage(f"base-{domain}", baseline, params, gguf=self.gguf, text=text)

    def nearest(self, label: str, kind: str, matrices: Path | None) -> Path:
        """The stock quantizer's file, with the importance matrix of a curvature or without."""
        from sintra.formats.gguf.imatrix import load_importance

        folder = self.work / label
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        tensors = [("token_embd", "Q8_0"), (".*", kind)]
        quantizer.quantize(
            self.gguf / "model.gguf",
            folder / "model.gguf",
            cores(),
            kind="Q8_0",
            tensors=tensors,
            matrix=load_importance(matrices, []) if matrices else None,
        )
        return folder

    def compensated(self, label: str, plain: list[Path], matrices: Path) -> Path:
        """The compensated file, from those without (where there is one) and with importance."""
        ours = self.work / label
        shutil.rmtree(ours, ignore_errors=True)
        shutil.copytree(plain[-1], ours)
        compensate_file(
            ours / "model.gguf",
            self.gguf / "model.gguf",
            matrices,
            self.work / f"keep-{label}",
            lambda _: None,
            alternative=plain[0] / "model.gguf" if len(plain) > 1 else None,
        )
        return ours

    def kld(self, folder: Path, domain: str) -> float:
        """Mean KL divergence over a domain's text."""
        label = f"q-{folder.name}-{domain}"
        out = self.stage(label, quality, {"seed": 0}, gguf=folder, baseline=self.base[domain])
        rows = parse_measurements(json.loads((out / "measurements.json").read_text()))
        return next(m.value for m in rows if m.metric == "kld_mean")


class Bench(Stages):
    """One model's files, calibrated and judged on a folder of texts."""

    def __init__(self, model: Path, texts: Path, tools: Path, work: Path) -> None:
        super().__init__(model, tools, work)
        self.texts = texts
        start = time.perf_counter()
        self.curvature = self.measured_curvature("curvature", self.text("calibration"))
        print(f"{model.name}: curvature {time.perf_counter() - start:.1f} s", flush=True)
        self.domains = [d for d in ("report", "far") if (texts / f"{d}.txt").exists()]
        self.base = {d: self.baseline(d, self.text(d), 20_480) for d in self.domains}

    def text(self, domain: str) -> Path:
        """A text of the folder as the fetch stage makes it."""
        return self.folder(domain, self.texts / f"{domain}.txt")

    def compare(self, kind: str) -> dict[str, float]:
        """Domain -> compensated / nearest."""
        plain = [self.nearest(f"{kind}-True", kind, self.curvature)]
        with contextlib.suppress(Infeasible):  # llama.cpp can't make the type without a matrix
            plain.insert(0, self.nearest(f"{kind}-False", kind, None))
        start = time.perf_counter()
        ours = self.compensated(f"{kind}-ours", plain, self.curvature)
        seconds = time.perf_counter() - start
        ratios = {}
        for domain in self.domains:
            a, b = [self.kld(f, domain) for f in plain], self.kld(ours, domain)
            without = f"{a[0]:.6f}" if len(a) > 1 else "none"
            ratios[domain] = b / min(a)
            print(
                f"  {kind:7} {domain:7} nearest {without:8} imatrix {a[-1]:.6f}  compensated "
                f"{b:.6f} ({ratios[domain]:.3f} x)  {seconds:.0f} s",
                flush=True,
            )
        for folder in (*plain, ours):
            shutil.rmtree(folder)
        return ratios


def mean(values: list[float]) -> float:
    """Geometric mean."""
    return math.exp(sum(map(math.log, values)) / len(values))


def toolchain(work: Path) -> Path:
    """llama.cpp's converter, through the product's own stage and cache."""
    subprocess.run(
        [sys.executable, "-m", "doit", "toolchain:llama.cpp"],
        cwd=ROOT,
        check=False,
        capture_output=True,
    )
    found = sorted((ROOT / "cache").glob("**/convert_hf_to_gguf.py"))
    if found:
        return found[0].parent
    from sintra.stages import tools

    (work / "tools").mkdir()
    context = Context(tools.toolchain_params(), {}, work / "tools", {}, work / "keep", cores())
    tools.fetch_converter(context)
    return work / "tools"


def main() -> None:
    """Compare all types on all models."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="models/fable,models/fable_mini")
    parser.add_argument("--texts", default="models/texts")
    parser.add_argument("--types", default=",".join(GRIDS))
    options = parser.parse_args()
    counted: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as name:
        tools = toolchain(Path(name))
        for model in options.model.split(","):
            work = Path(name) / Path(model).name
            work.mkdir()
            bench = Bench(Path(model), Path(options.texts), tools, work)
            for kind in options.types.split(","):
                ratios = bench.compare(kind)
                if GRIDS[kind].bits_per_weight <= LIMIT:
                    counted.append(ratios)
    near = [r["report"] for r in counted]
    far = [r["far"] for r in counted if "far" in r]
    print(
        f"geo_mean={mean(near):.3f} worst={max(near):.3f} "
        f"far_domain={mean(far) / mean(near) if far else 'none'}"
    )


if __name__ == "__main__":
    main()
