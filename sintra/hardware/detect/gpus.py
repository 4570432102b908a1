"""List the graphics processors of this machine.

NVIDIA's through NVML, and whatever llama.cpp's build here can use (CUDA, Vulkan, Metal, ...).
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

KINDS = {1: "gpu", 2: "igpu", 3: "accelerator"}  # ggml-backend.h, enum ggml_backend_dev_type


@dataclass(frozen=True)
class Gpu:
    """Hold one graphics processor or accelerator."""

    name: str
    backend: str  # cuda, vulkan, metal, ...
    memory: int  # all of it, bytes
    free: int  # of it, bytes
    bandwidth: float | None = None  # of its memory, bytes/s
    power_w: float | None = None  # limit, watts
    temperature_c: float | None = None  # Celsius


def list_nvidia_gpus() -> list[Gpu]:
    """Return what NVML lists; none where nvidia-ml-py or the driver isn't there."""
    try:
        import pynvml  # optional package
    except ImportError:
        return []
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(i) for i in range(pynvml.nvmlDeviceGetCount())]
        return [_nvidia_gpu(pynvml, handle) for handle in handles]
    finally:
        pynvml.nvmlShutdown()


def _nvidia_gpu(nvml: Any, handle: Any) -> Gpu:
    """Return a device of NVML by its handle."""

    def query(function: str, *args: Any) -> Any:
        with contextlib.suppress(nvml.NVMLError):
            return getattr(nvml, function)(handle, *args)
        return None

    memory = nvml.nvmlDeviceGetMemoryInfo(handle)
    clock = query("nvmlDeviceGetMaxClockInfo", nvml.NVML_CLOCK_MEM)  # MHz; two transfers a cycle
    width = query("nvmlDeviceGetMemoryBusWidth")  # bits
    power = query("nvmlDeviceGetPowerManagementLimit")  # milliwatts
    return Gpu(
        name=str(nvml.nvmlDeviceGetName(handle)),
        backend="cuda",
        memory=int(memory.total),
        free=int(memory.free),
        bandwidth=clock * 1e6 * 2 * width / 8 if clock and width else None,
        power_w=power / 1000 if power else None,
        temperature_c=query("nvmlDeviceGetTemperature", nvml.NVML_TEMPERATURE_GPU),
    )


def list_llama_cpp_gpus() -> list[Gpu]:
    """Return what the installed llama.cpp lists beside CPUs; none where its library can't be used.

    By ggml_backend_dev_get.
    """
    try:
        spec = importlib.util.find_spec("llama_cpp")
        folder = Path(spec.origin).parent / "lib" if spec and spec.origin else Path()
        registry = _first_file(folder, ("libggml.so", "libggml.dylib", "ggml.dll"))
        base = _first_file(folder, ("libggml-base.so", "libggml-base.dylib", "ggml-base.dll"))
        return list_ggml_gpus(ctypes.CDLL(str(registry)), ctypes.CDLL(str(base)))
    except (StopIteration, OSError, AttributeError):
        return []


def _first_file(folder: Path, names: tuple[str, ...]) -> Path:
    """Return the first file that exists. Raises StopIteration where none does."""
    return next(p for p in (folder / name for name in names) if p.exists())


def list_ggml_gpus(registry: Any, base: Any) -> list[Gpu]:
    """Return the devices of a loaded ggml that aren't CPUs.

    libggml has the registry, libggml-base the functions of a device.
    """
    _declare_functions(registry, base)
    gpus = []
    for index in range(registry.ggml_backend_dev_count()):
        device = registry.ggml_backend_dev_get(index)
        if base.ggml_backend_dev_type(device) not in KINDS:
            continue
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
        backend = base.ggml_backend_dev_name(device).decode().rstrip("0123456789").lower()
        name = base.ggml_backend_dev_description(device).decode()
        gpus.append(Gpu(name, backend, total.value, free.value))
    return gpus


def _declare_functions(registry: Any, base: Any) -> None:
    """Declare the C types of the functions in use (ggml-backend.h)."""
    size_pointer = ctypes.POINTER(ctypes.c_size_t)
    registry.ggml_backend_dev_count.restype = ctypes.c_size_t
    registry.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    registry.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name in ("ggml_backend_dev_name", "ggml_backend_dev_description"):
        getattr(base, name).argtypes = [ctypes.c_void_p]
        getattr(base, name).restype = ctypes.c_char_p
    base.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size_pointer, size_pointer]


def list_gpus() -> list[Gpu]:
    """Return all graphics processors, each once: NVML has more figures of NVIDIA's."""
    nvidia = list_nvidia_gpus()
    names = {gpu.name for gpu in nvidia}
    return nvidia + [gpu for gpu in list_llama_cpp_gpus() if gpu.name not in names]
