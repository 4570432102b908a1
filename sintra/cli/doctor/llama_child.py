"""Load the installed llama.cpp in a process of its own and print what it can do, as JSON.

A build for another processor dies of an illegal instruction as it is loaded: the doctor survives.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any


def describe() -> dict[str, Any]:
    """Return what the library says of itself. Raises ImportError, OSError, RuntimeError."""
    import llama_cpp  # the point of this process

    from sintra.hardware.detect.gpus import list_llama_cpp_gpus

    return {
        "system": llama_cpp.llama_print_system_info().decode(errors="replace"),
        "offload": bool(llama_cpp.llama_supports_gpu_offload()),
        "devices": [asdict(gpu) for gpu in list_llama_cpp_gpus()],
    }


if __name__ == "__main__":
    print(json.dumps(describe()))
