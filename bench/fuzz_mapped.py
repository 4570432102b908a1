"""Mutated GGUFs that pass the header's check, loaded by llama.cpp, each in a process of its own:
does C crash on one?

    python bench/fuzz_mapped.py [--inputs 2000] [--seed 0] [--keep FOLDER]

Last line: `passed=... loaded=... refused=... crashed=...`: of the inputs that the check lets
through, how many llama.cpp loads, how many it refuses in words, how many end it by a signal (each
is printed).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from fuzzing.mutate import drawn, mutated  # noqa: E402
from fuzzing.seeds import GGUF  # noqa: E402

from sintra.core.errors import Infeasible  # noqa: E402
from sintra.formats.gguf import header  # noqa: E402

LIMIT_S = 20


def real_seed(folder: Path) -> bytes:
    """A whole small Llama as GGUF, with a vocabulary: what llama.cpp loads."""
    import numpy as np
    from gguf import GGUFWriter

    path, width = folder / "seed.gguf", 32
    writer = GGUFWriter(path, "llama")
    for add, value in (
        (writer.add_block_count, 1),
        (writer.add_embedding_length, width),
        (writer.add_head_count, 2),
        (writer.add_context_length, 64),
        (writer.add_feed_forward_length, 64),
        (writer.add_layer_norm_rms_eps, 1e-5),
        (writer.add_rope_dimension_count, 16),
    ):
        add(value)
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{n:02X}>" for n in range(256)), "a", "b", "ab"]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types([2, 3, 3, *([6] * 256), 1, 1, 1])
    shapes = {
        "token_embd": (len(tokens), width),
        "output": (len(tokens), width),
        "output_norm": (width,),
    }
    block = {
        "attn_norm": (width,),
        "ffn_norm": (width,),
        "ffn_gate": (64, width),
        "ffn_up": (64, width),
        "ffn_down": (width, 64),
    }
    block |= {f"attn_{n}": (width, width) for n in ("q", "k", "v", "output")}
    for name, shape in (shapes | {f"blk.0.{n}": s for n, s in block.items()}).items():
        writer.add_tensor(f"{name}.weight", np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.read_bytes()


def loaded(path: Path) -> int:
    """Load in a child: 0 loaded, 1 refused, a negative number: the signal that ended it."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        from sintra.formats.runtime.llama_cpp import open_model

        try:
            with open_model(path, 16, 1):
                os._exit(0)
        except Infeasible:
            os._exit(1)
        except BaseException:
            os._exit(2)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> int:
    """Count."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path)
    given = parser.parse_args()
    rng, count = random.Random(given.seed), {"passed": 0, "loaded": 0, "refused": 0, "crashed": 0}
    with tempfile.TemporaryDirectory(prefix="sintra-fuzz-") as folder:
        seed, path = real_seed(Path(folder)), Path(folder) / "model.gguf"
        path.write_bytes(seed)
        assert loaded(path) == 0, "the seed itself loads"
        head = header.read_gguf_header(path).data_start
        for number in range(given.inputs):
            data = mutated(seed[:head], drawn(rng), GGUF)
            path.write_bytes(data + bytes(-len(data) % 32) + seed[head:])
            try:
                header.read_gguf_header(path)
            except header.Malformed:
                continue
            count["passed"] += 1
            end = loaded(path)
            count["loaded" if end == 0 else "refused" if end == 1 else "crashed"] += 1
            if end not in (0, 1):
                print(
                    f"input {number}: {signal.Signals(-end).name if end < 0 else f'exit {end}'}",
                    flush=True,
                )
                if given.keep:
                    given.keep.mkdir(parents=True, exist_ok=True)
                    (given.keep / f"{number}.gguf").write_bytes(path.read_bytes())
    print(" ".join(f"{k}={v}" for k, v in count.items()))
    return 1 if count["crashed"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
