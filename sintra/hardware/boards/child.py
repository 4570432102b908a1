"""Measure one model on the board: `python child.py JOB`, a job in JSON.

Python 3.9 or later with llama-cpp-python, and nothing else but the standard library. Writes JSON
lines: {"phase"}; {"metric", "rates"} in tokens/s; {"peak", "load_s"}; or {"error", "log"} with exit
code 3. The protocols are those of the local probes (sintra/probes/timing.py,
sintra/probes/memory_child.py).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypedDict

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # numpy's threads are none of the model's
    os.environ[name] = "1"

LAST = 16  # tokens that a memory job generates
UBATCH = 512  # tokens of a micro-batch, llama.cpp's default
KV_TYPES = {"f16": 1, "q8_0": 8, "q5_1": 7, "q4_0": 2}  # ggml.h, enum ggml_type
WARNING = 3  # ggml.h, enum ggml_log_level
LOG: list[str] = []


class ChildJob(TypedDict, total=False):
    """What is to be measured."""

    job: str  # "speed" or "memory"
    gguf: str  # path of the model
    threads: int
    kv: str  # type of the KV cache
    gpu_layers: int | None  # None: all where the library has a GPU
    limit: int | None  # of a memory job: bytes of data that may be added
    prompt: int  # of a speed job: tokens that are read
    generate: int  # of a speed job: tokens that are generated
    repeat: int  # of a speed job: repetitions
    context: int  # of a memory job: tokens


class LlamaCppError(Exception):
    """Anything that llama.cpp refuses."""


def send_line(**line: Any) -> None:
    """Write a line of JSON to the runner."""
    print(json.dumps(line), flush=True)


def load_library() -> Any:
    """Return llama.cpp, whose warnings go to LOG."""
    import llama_cpp  # an error of this import is an answer

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def sink(level: int, words: bytes, _: object) -> None:
        if level >= WARNING:
            LOG.append(words.decode(errors="replace"))

    LOG.append("")
    load_library.sink = sink  # type: ignore[attr-defined]  # llama.cpp keeps no reference
    llama_cpp.llama_log_set(sink, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


class BoardModel:
    """A GGUF with a context."""

    def __init__(self, job: ChildJob, context: int, mmap: bool) -> None:
        """Prepare to load. context: tokens; mmap: whether the file is mapped."""
        self.lib = lib = load_library()
        self.params = lib.llama_model_default_params()
        if "load_mode" in {field[0] for field in self.params._fields_}:
            self.params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if mmap else lib.LLAMA_LOAD_MODE_NONE
        else:  # before llama-cpp-python 0.3.36
            self.params.use_mmap = mmap
        has_gpu, layers = lib.llama_supports_gpu_offload(), job["gpu_layers"]
        self.params.n_gpu_layers = layers if layers is not None else 999 if has_gpu else 0
        self.gpu = bool(has_gpu and self.params.n_gpu_layers)
        self.context, self.job = context, job

    def open(self) -> None:
        """Load. Raises LlamaCppError."""
        self.model = self.lib.llama_model_load_from_file(self.job["gguf"].encode(), self.params)
        if not self.model:
            raise LlamaCppError("llama.cpp can't load it")
        self.vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = self.context
        params.n_ubatch = min(self.context, UBATCH) if self.job["job"] == "memory" else self.context
        params.n_threads = params.n_threads_batch = self.job["threads"]
        if self.job["kv"] != "f16":
            keys, _, values = self.job["kv"].partition("/")
            params.type_k, params.type_v = KV_TYPES[keys], KV_TYPES[values or keys]
            params.flash_attn_type = self.lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.ctx = self.lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise LlamaCppError(f"llama.cpp can't make a context of {self.context}")
        self.batch = self.lib.llama_batch_init(self.context, 0, 1)

    def feed(self, ids: list[int], start: int) -> None:
        """Compute tokens at positions from `start`, to the end. Raises LlamaCppError."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i] = token, start + i
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, 0
            batch.logits[i] = i == len(ids) - 1
        if code := self.lib.llama_decode(self.ctx, batch):
            raise LlamaCppError(f"llama.cpp can't decode (code {code})")
        self.lib.llama_synchronize(self.ctx)

    def clear(self) -> None:
        """Empty the context."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)


def measure_speed(job: ChildJob) -> None:
    """Measure random tokens, an empty context each time: one warm-up, then the repetitions."""
    prompt, generate = job["prompt"], job["generate"]
    model = BoardModel(job, max(prompt, generate), True)
    send_line(phase="load")
    model.open()
    draw = random.Random(0)
    ids = [draw.randrange(model.vocabulary) for _ in range(max(prompt, generate))]

    def generate_tokens() -> None:
        for position in range(generate):
            model.feed([ids[position]], position)

    for metric, count, work in (
        ("pp_tps", prompt, lambda: model.feed(ids[:prompt], 0)),
        ("tg_tps", generate, generate_tokens),
    ):
        send_line(phase=metric)
        rates = [count / time_work(model, work) for _ in range(job["repeat"] + 1)][1:]
        send_line(metric=metric, rates=rates, gpu=model.gpu)


def time_work(model: BoardModel, work: Callable[[], None]) -> float:
    """Return the seconds that work takes from an empty context."""
    model.clear()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure_memory(job: ChildJob) -> None:
    """Load without mmap, prefill the context but a few tokens, decode those; send the peak."""
    context = job["context"]
    last = min(LAST, context // 2)
    model = BoardModel(job, context, False)
    if job["limit"] is not None:
        limit_data(job["limit"])
    send_line(phase="load")
    start = time.perf_counter()
    model.open()
    load_s = time.perf_counter() - start
    send_line(phase="prefill")
    model.feed([0] * (context - last), 0)
    send_line(phase="decode")
    for position in range(context - last, context):
        model.feed([0], position)
    send_line(peak=peak_bytes(), load_s=load_s, gpu=model.gpu)


def peak_bytes() -> int:
    """Return the peak resident bytes of this process."""
    with contextlib.suppress(OSError, StopIteration):
        return read_status("VmHWM")
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def read_status(name: str) -> int:
    """Read the bytes of a line of /proc/self/status. Raises OSError, StopIteration."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(name))) * 1024


def limit_data(more: int) -> None:
    """Let this process have so many bytes of data beyond what it has, or less where it must."""
    now = read_status("VmData")
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = now + more if hard == resource.RLIM_INFINITY else min(now + more, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def run_job(argv: list[str]) -> int:
    """Run the job of the command line, and return the exit code."""
    job: ChildJob = json.loads(argv[0])
    try:
        (measure_speed if job["job"] == "speed" else measure_memory)(job)
    except (LlamaCppError, MemoryError, AttributeError, ImportError, OSError) as error:
        send_line(error=f"{type(error).__name__}: {error}", log="".join(LOG)[-1500:])
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(run_job(sys.argv[1:]))
