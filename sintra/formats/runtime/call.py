"""Run a function of Sintra in another Python.

The function gets the same context as a stage, dies with its parent, and its errors are raised again
on this side. The other Python is started with START, MODULE:FUNCTION, job.json and end.json.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import TypedDict

from sintra.core.errors import Infeasible, Transient, UserError
from sintra.core.process import die_with_parent
from sintra.core.stage import Context, Hints, Params

ERRORS = {"Infeasible": Infeasible, "Transient": Transient, "UserError": UserError}
PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])  # the folder that holds sintra/
# Appended, not PYTHONPATH: what the other Python has itself must come first.
START = (
    f"import sys; sys.path.append({PACKAGE_ROOT!r}); "
    "from sintra.formats.runtime.call import run_job; sys.exit(run_job(sys.argv[1:]))"
)


class Job(TypedDict):
    """The content of job.json: a stage's context, and the limit."""

    params: Params
    inputs: dict[str, str]  # role -> folder
    out: str  # folder
    hints: Hints
    keep: str  # folder
    threads: int
    memory: float | None  # most private bytes; None: no limit


def call_in_python(
    context: Context, python: str, function: str, memory: float | None = None
) -> None:
    """Run "module:function" on the context in another Python.

    memory: how many private bytes it may ask for (Linux). Raises what the function raises of
    Infeasible, Transient and UserError; Infeasible("out_of_memory") where it lacks memory.
    """
    context.keep.mkdir(parents=True, exist_ok=True)
    job_file, end_file = context.keep / "job.json", context.keep / "end.json"
    end_file.unlink(missing_ok=True)
    job: Job = {
        "params": context.params,
        "inputs": {k: str(v) for k, v in context.inputs.items()},
        "out": str(context.out),
        "hints": context.hints,
        "keep": str(context.keep),
        "threads": context.threads,
        "memory": memory,
    }
    job_file.write_text(json.dumps(job))
    code = subprocess.run(
        [python, "-c", START, function, str(job_file), str(end_file)], check=False
    ).returncode
    if end_file.exists():
        name, args = json.loads(end_file.read_text())
        raise ERRORS[name](*args)
    if code:
        raise Transient(
            f"{function.partition(':')[0].rpartition('.')[2]} ended with exit code {code} in "
            f"{python}"
        )


def run_job(argv: list[str]) -> int:
    """Run a job on the other side; argv: MODULE:FUNCTION, job.json and end.json.

    Writes the function's error to end.json. Returns the exit code.
    """
    die_with_parent()
    function, job_file, end_file = argv
    job: Job = json.loads(Path(job_file).read_text())
    inputs = {k: Path(v) for k, v in job["inputs"].items()}
    context = Context(
        job["params"], inputs, Path(job["out"]), job["hints"], Path(job["keep"]), job["threads"]
    )
    memory = job["memory"]
    if memory:
        limit_memory(int(memory))
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(context)
    except Exception as error:
        Path(end_file).write_text(json.dumps(_describe_error(error, name, memory)))
        return 1
    return 0


def _describe_error(error: Exception, function: str, memory: float | None) -> tuple[str, list[str]]:
    """Return the name of one of ERRORS and its arguments. memory: the limit in bytes."""
    if isinstance(error, Infeasible):
        return "Infeasible", [error.kind, str(error)]
    if isinstance(error, Transient | UserError):
        return type(error).__name__, [str(error)]
    if not is_out_of_memory(error):
        traceback.print_exc()
        first = next(iter(str(error).splitlines()), "")
        return "Transient", [f"{function} broke off: {type(error).__name__}: {first}"[:300]]
    room = f" than the {memory / 2**30:.3g} GiB that it may have" if memory else " than there is"
    return "Infeasible", ["out_of_memory", f"{function} asked for more memory{room}"]


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an exception of Python, torch or CUDA means that memory is missing."""
    return isinstance(error, MemoryError) or any(
        w in str(error) for w in ("t allocate memory", "out of memory", "not enough memory")
    )


def limit_memory(size: int) -> None:
    """Let allocations of private memory beyond `size` bytes fail instead of causing swapping.

    Without effect outside Linux.
    """
    if sys.platform == "linux":
        import resource  # not on Windows

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
