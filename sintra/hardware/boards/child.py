"""One model on the board: `python child.py '{"job": "speed" or "memory", ...}'`, Python 3.9 or
later with llama-cpp-python.

Writes JSON lines: {"phase"}; {"metric", "rates"} in tokens/s; {"peak", "load_s"}; or {"error",
"log"} with exit code 3. The protocols are those of the local probes (sintra/probes/timing.py,
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
from typing import Any

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):  # numpy's threads are none of the model's
    os.environ[name] = "1"

LAST, UBATCH, KV_TYPES = 16, 512, {"f16": 1, "q8_0": 8, "q4_0": 2}
LOG: list[str] = []


class Trouble(Exception):
    """Anything that llama.cpp refuses."""


def tell(**line: Any) -> None:
    """A line to the runner."""
    print(json.dumps(line), flush=True)


def library() -> Any:
    """llama.cpp, its warnings kept."""
    import llama_cpp

    @llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
    def sink(level: int, words: bytes, _: object) -> None:
        if level >= 3:
            LOG.append(words.decode(errors="replace"))

    LOG.append("")
    library.sink = sink  # type: ignore[attr-defined]
    llama_cpp.llama_log_set(sink, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()
    return llama_cpp


class Model:
    """A GGUF with a context."""

    def __init__(self, job: dict[str, Any], context: int, mmap: bool) -> None:
        self.lib = lib = library()
        self.params = lib.llama_model_default_params()
        known = {field[0] for field in self.params._fields_}
        if "load_mode" in known:
            self.params.load_mode = lib.LLAMA_LOAD_MODE_MMAP if mmap else lib.LLAMA_LOAD_MODE_NONE
        else:  # before llama-cpp-python 0.3.36
            self.params.use_mmap = mmap
        on_gpu = lib.llama_supports_gpu_offload()
        self.params.n_gpu_layers = (
            job["gpu_layers"] if job["gpu_layers"] is not None else 999 if on_gpu else 0
        )
        self.gpu = bool(on_gpu and self.params.n_gpu_layers)
        self.context, self.job = context, job

    def open(self) -> None:
        """Load."""
        self.model = self.lib.llama_model_load_from_file(self.job["gguf"].encode(), self.params)
        if not self.model:
            raise Trouble("llama.cpp can't load it")
        self.vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        params = self.lib.llama_context_default_params()
        params.n_ctx = params.n_batch = self.context
        params.n_ubatch = min(self.context, UBATCH) if self.job["job"] == "memory" else self.context
        params.n_threads = params.n_threads_batch = self.job["threads"]
        if self.job["kv"] != "f16":
            params.type_k = params.type_v = KV_TYPES[self.job["kv"]]
            params.flash_attn_type = self.lib.LLAMA_FLASH_ATTN_TYPE_ENABLED
        self.ctx = self.lib.llama_init_from_model(self.model, params)
        if not self.ctx:
            raise Trouble(f"llama.cpp can't make a context of {self.context}")
        self.batch = self.lib.llama_batch_init(self.context, 0, 1)

    def feed(self, ids: list[int], start: int) -> None:
        """Tokens at positions from `start`, until they are computed."""
        batch = self.batch
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.seq_id[i][0] = (
                token,
                start + i,
                1,
                0,
            )
            batch.logits[i] = i == len(ids) - 1
        if code := self.lib.llama_decode(self.ctx, batch):
            raise Trouble(f"llama.cpp can't decode (code {code})")
        self.lib.llama_synchronize(self.ctx)

    def clear(self) -> None:
        """Forget the context."""
        self.lib.llama_memory_clear(self.lib.llama_get_memory(self.ctx), True)


def speed(job: dict[str, Any]) -> None:
    """Random tokens, an empty context each time, one warm-up, then the repetitions."""
    prompt, generate = job["prompt"], job["generate"]
    model = Model(job, max(prompt, generate), True)
    tell(phase="load")
    model.open()
    draw = random.Random(0)
    ids = [draw.randrange(model.vocabulary) for _ in range(max(prompt, generate))]

    def single() -> None:
        for place in range(generate):
            model.feed([ids[place]], place)

    for metric, count, work in (
        ("pp_tps", prompt, lambda: model.feed(ids[:prompt], 0)),
        ("tg_tps", generate, single),
    ):
        tell(phase=metric)
        tell(
            metric=metric,
            rates=[count / seconds(model, work) for _ in range(job["repeat"] + 1)][1:],
            gpu=model.gpu,
        )


def seconds(model: Model, work: Callable[[], None]) -> float:
    """How long it takes from an empty context."""
    model.clear()
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def memory(job: dict[str, Any]) -> None:
    """Load without mmap, prefill the context but a few tokens, decode those."""
    context = job["context"]
    last = min(LAST, context // 2)
    model = Model(job, context, False)
    if job["limit"] is not None:
        limit_data(job["limit"])
    tell(phase="load")
    start = time.perf_counter()
    model.open()
    loaded = time.perf_counter() - start
    tell(phase="prefill")
    model.feed([0] * (context - last), 0)
    tell(phase="decode")
    for place in range(context - last, context):
        model.feed([0], place)
    tell(peak=peak(), load_s=loaded, gpu=model.gpu)


def peak() -> int:
    """Peak resident bytes of this process."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (
        1 if sys.platform == "darwin" else 1024
    )


def limit_data(more: int) -> None:
    """Let this process have so many bytes of data beyond what it has, where that is less than it
    may have anyway.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    now = int(next(line.split()[1] for line in lines if line.startswith("VmData"))) * 1024
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    most = now + more if hard == resource.RLIM_INFINITY else min(now + more, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def main(argv: list[str]) -> int:
    """The entry."""
    job = json.loads(argv[0])
    try:
        (speed if job["job"] == "speed" else memory)(job)
    except (Trouble, MemoryError, AttributeError, ImportError, OSError) as error:
        tell(error=f"{type(error).__name__}: {error}", log="".join(LOG)[-1500:])
        return 3
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
