"""What spinning threads cost on a machine that somebody uses: steps/s of worker processes, quiet
and beside processes that keep every core busy.

    python bench/spinning.py [--gguf FILE] [--seconds 6]

Threads of OpenMP that wait spin at first, and a barrier of small operations is passed in no time.
Where another process has the core, each spin lasts until the scheduler's next turn. Measured with
torch (matrices of 256 x 256) and llama.cpp (windows of 64 tokens; default model: fable in 16 bits,
converted for it), two threads each, under: OpenMP's default, GOMP_SPINCOUNT=1000 (what workers are
given), OMP_WAIT_POLICY=PASSIVE. Last line: `torch_busy=... llama_busy=... torch_quiet=...
llama_quiet=...`, speed with GOMP_SPINCOUNT=1000 over that of the default.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from rounding import ROOT, Stages, toolchain

SETTINGS = {
    "default": {},
    "GOMP_SPINCOUNT=1000": {"GOMP_SPINCOUNT": "1000"},
    "OMP_WAIT_POLICY=PASSIVE": {"OMP_WAIT_POLICY": "PASSIVE"},
}
TORCH = """
import sys, time, torch
torch.set_num_threads(2)
a, b = torch.randn(256, 256), torch.randn(256, 256)
steps, end = 0, time.perf_counter() + float(sys.argv[1])
start = time.perf_counter()
while time.perf_counter() < end:
    for _ in range(20):
        b = torch.tanh(a @ b)
    steps += 1
print(steps / (time.perf_counter() - start))
"""
LLAMA = """
import sys, time
from pathlib import Path
import numpy as np
from sintra.formats.runtime.llama_cpp import open_model
with open_model(Path(sys.argv[2]), 64, 2) as model:
    ids = np.arange(64, dtype=np.int32) + 300
    steps, end = 0, time.perf_counter() + float(sys.argv[1])
    start = time.perf_counter()
    while time.perf_counter() < end:
        model.log_probs(ids, 32)
        steps += 1
    print(steps / (time.perf_counter() - start))
"""


def speed(code: str, setting: dict[str, str], seconds: float, gguf: Path) -> float:
    """Steps/s of one process."""
    names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    env = {k: v for k, v in os.environ.items() if k not in names} | setting
    command = [sys.executable, "-c", code, str(seconds), str(gguf)]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout)


def measure(seconds: float, gguf: Path) -> dict[tuple[str, str], float]:
    """Steps/s by program and setting."""
    programs = {"torch": TORCH, "llama": LLAMA}
    return {
        (program, name): speed(code, setting, seconds, gguf)
        for program, code in programs.items()
        for name, setting in SETTINGS.items()
    }


def main() -> None:
    """Quiet, then busy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gguf", type=Path)
    parser.add_argument("--seconds", type=float, default=6.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        gguf = options.gguf
        if gguf is None:
            work = Path(scratch)
            gguf = Stages(ROOT / "models" / "fable", toolchain(work), work).gguf / "model.gguf"
        found = {"quiet": measure(options.seconds, gguf)}
        loop = [sys.executable, "-c", "while True: pass"]
        busy = [subprocess.Popen(loop) for _ in range(os.cpu_count() or 2)]
        try:
            found["busy"] = measure(options.seconds, gguf)
        finally:
            for process in busy:
                process.kill()
    for state, rows in found.items():
        for (program, name), value in rows.items():
            print(f"{state:6} {program:6} {name:24} {value:9.1f} steps/s")
    ratios = {
        f"{program}_{state}": found[state][program, "GOMP_SPINCOUNT=1000"]
        / found[state][program, "default"]
        for state in ("busy", "quiet")
        for program in ("torch", "llama")
    }
    print(" ".join(f"{name}={value:.2f}" for name, value in ratios.items()))


if __name__ == "__main__":
    main()
