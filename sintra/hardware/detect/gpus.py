"""Graphics processors: NVIDIA's through NVML, and whatever llama.cpp's build here can use (CUDA,
Vulkan, Metal, ...).
"""

from __future__ import annotations

import contextlib
import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {1: "gpu", 2: "igpu", 3: "accelerator"}  # ggml-backend.h, enum ggml_backend_dev_type


@dataclass(frozen=True)
class Gpu:
    """One device. Bytes of its memory, all and free; bandwidth in bytes/s where it can be told;
    power limit in W.
    """

    name: str
    backend: str
    memory: int
    free: int
    bandwidth: float | None = None
    power_w: float | None = None
    temperature_c: float | None = None


def nvidia() -> list[Gpu]:
    """By NVML; none where nvidia-ml-py or the driver isn't there."""
    try:
        import pynvml
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [_nvidia(pynvml, handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _nvidia(nvml: Any, handle: Any) -> Gpu:
    def ask(function: str, *args: Any) -> Any:
        with contextlib.suppress(nvml.NVMLError):
            return getattr(nvml, function)(handle, *args)
        return None

    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    clock = ask("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM)  # MHz; two transfers a cycle
    width = ask("nvmlDeviceGetMemoryBusWidth")
    power = ask("nvmlDeviceGetPowerManagementLimit")
    return Gpu(
        str(nvml.nvmlDeviceGetName(handle)),
        "cuda",
        int(memory.total),
        int(memory.free),
        clock * 1e6 * 2 * width / 8 if clock and width else None,
        power / 1000 if power else None,
        ask("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
    )


def llama_cpp() -> list[Gpu]:
    """What the installed llama.cpp lists beside CPUs: ggml_backend_dev_get. None where its library
    can't be asked.
    """
    try:
        import importlib.util

        spec = importlib.util.find_spec("llama_cpp")
        folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
        library = next(
            p
            for p in (folder / n for n in ("libggml.so", "libggml.dylib", "ggml.dll"))
            if p.exists()
        )
        base = next(
            p
            for p in (
                folder / n for n in ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll")
            )
            if p.exists()
        )
        return listed(ctypes.CDLL(str(library)), ctypes.CDLL(str(base)))
    except (StopIteration, OSError, AttributeError):
        return []


def listed(registry: Any, base: Any) -> list[Gpu]:
    """The devices of a loaded ggml: libggml has the registry, libggml-base the questions to a
    device.
    """
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.argtypes, registry.ggml_backend_dev_get.restype = (
        [ctypes.c_size_t],
        ctypes.c_void_p,
    )
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(base, name).argtypes, getattr(base, name).restype = (
            [ctypes.c_void_p],
            ctypes.c_char_p,
        )
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_memory.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_size_t),
        ctypes.POINTER(ctypes.c_size_t),
    ]
    found = []
    for index in range(registry.ggml_backend_dev_count()):
        device = registry.ggml_backend_dev_get(index)
        if base.ggml_backend_dev_type(device) not in KINDS:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        backend = base.ggml_backend_dev_name(device).decode().rstrip("0123456789").lower()
        found.append(
            Gpu(
                base.ggml_backend_dev_description(device).decode(), backend, total.value, free.value
            )
        )
    return found


def found() -> list[Gpu]:
    """All, each once: NVML knows more of NVIDIA's."""
    own = nvidia()
    names = {g.name for g in own}
    return own + [g for g in llama_cpp() if g.name not in names]
