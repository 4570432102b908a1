"""Whether llama.cpp loads here and uses what the machine has, and what PyTorch was built for."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from sintra.cli.doctor.check import Check
from sintra.cli.doctor.packages import Needs
from sintra.core.stage import tool_version
from sintra.core.text import printable_line
from sintra.hardware.detect.machine import Machine

LOAD_SECONDS = 20  # a slow disk; usually half a second
# Instruction sets by their names in Machine.isa -> as llama.cpp's system info writes them.
SYSTEM_NAMES = {
    "avx2": "AVX2",
    "avx512f": "AVX512",
    "avx512_vnni": "AVX512_VNNI",
    "i8mm": "MATMUL_INT8",
    "dotprod": "DOTPROD",
    "sve": "SVE",
}
COMPILERS = ("c++", "g++", "clang++")


def llama_checks(needs: Needs, machine: Machine) -> list[Check]:
    """Return whether llama.cpp loads, its backends, and whether it uses this processor."""
    if tool_version("llama-cpp-python") == "none":
        return []  # its package's line says so
    rebuild = (
        "pip install --force-reinstall --no-cache-dir --no-binary llama-cpp-python "
        + needs.command("llama-cpp-python").removeprefix("pip install ")
    )
    found = load_llama()
    if isinstance(found, str):
        return [Check("llama.cpp", "bad", f"doesn't load: {found}", rebuild)]
    return [backend_check(found, machine, rebuild), instruction_check(found, machine, rebuild)]


def load_llama() -> dict[str, Any] | str:
    """Return what llama.cpp says of itself, or why it can't be loaded, in a line."""
    command = [sys.executable, "-m", "sintra.cli.doctor.llama_child"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not within {LOAD_SECONDS} s"
    if done.returncode < 0:
        return f"killed by signal {-done.returncode}: built for another processor?"
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        lines = done.stderr.strip().splitlines() or ["no reason given"]
        return printable_line(lines[-1], 200)
    return found


def backend_check(found: dict[str, Any], machine: Machine, rebuild: str) -> Check:
    """Return llama.cpp's backends; a note where a graphics processor goes unused."""
    devices = [f"{d['backend']} ({d['name']})" for d in found["devices"]]
    shown = printable_line(", ".join(["CPU", *devices]), 200)
    nvidia = [gpu for gpu in machine.gpus if gpu.backend == "cuda"]
    if nvidia and not found["offload"]:
        unused = f"{shown}; {printable_line(nvidia[0].name, 60)} goes unused"
        return Check("llama.cpp", "note", unused, f"CMAKE_ARGS=-DGGML_CUDA=on {rebuild}")
    return Check("llama.cpp", "ok", f"loads; {shown}")


def instruction_check(found: dict[str, Any], machine: Machine, rebuild: str) -> Check:
    """Return the instruction sets in use; a note where the processor has more."""
    used = re.findall(r"(\w+) = 1", found["system"])
    unused = [n for n, name in SYSTEM_NAMES.items() if n in machine.isa and name not in used]
    shown = ", ".join(name for name in SYSTEM_NAMES.values() if name in used) or "none known"
    if unused:
        lacking = f"{shown}; not {', '.join(unused)}, which this processor has"
        return Check("instruction sets", "note", lacking, rebuild)
    return Check("instruction sets", "ok", shown)


def torch_check(machine: Machine) -> Check | None:
    """Return what PyTorch was built for, read without loading it; None where it isn't there."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "version.py"
    text = path.read_text(errors="replace") if path.is_file() else ""
    cuda = re.search(r"^cuda\b.*?=\s*'([\d.]+)'", text, re.M)
    hip = re.search(r"^hip\b.*?=\s*'([\w.-]+)'", text, re.M)
    build = f"CUDA {cuda[1]}" if cuda else f"ROCm {hip[1]}" if hip else "the CPU"
    gpus = ", ".join(printable_line(gpu.name, 60) for gpu in machine.gpus) or "no GPU seen here"
    return Check("torch's build", "ok", f"for {build}; {gpus}")


def build_tool_checks() -> list[Check]:
    """Return the tools that pip compiles llama-cpp-python with; it brings a cmake of its own."""
    compiler = next((path for name in COMPILERS if (path := shutil.which(name))), None)
    cmake = shutil.which("cmake")
    needed = "needed only to compile llama-cpp-python"
    return [
        Check("compiler", "ok", compiler)
        if compiler
        else Check("compiler", "note", f"none; {needed}", "apt-get install g++"),
        Check("cmake", "ok", cmake or "none; pip takes one of its own where it compiles"),
    ]
