"""A function of ours in another Python: `python -m sintra.formats.runtime.call module:function job.json`.

It is given the same context as a stage, dies with its parent, and its errors are raised again on
this side.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from sintra.core.errors import Infeasible, Transient, UserError
from sintra.core.process import die_with_parent
from sintra.core.stage import Context

ERRORS = {"Infeasible": Infeasible, "Transient": Transient, "UserError": UserError}
PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])
# Appended, not PYTHONPATH: what the other Python has itself must come first.
START = (
    f"import sys; sys.path.append({PACKAGE_ROOT!r}); from sintra.formats.runtime.call import main; "
    "sys.exit(main(sys.argv[1:]))"
)


def call_in_python(
    context: Context, python: str, function: str, memory: float | None = None
) -> None:
    """Run "module:function" on the context in another Python. memory: how many bytes it may ask for
    (Linux).

    Raises what the function raises of Infeasible, Transient and UserError;
    Infeasible("out_of_memory") for want of memory.
    """
    context.keep.mkdir(parents=True, exist_ok=True)
    job, end = context.keep / "job.json", context.keep / "end.json"
    end.unlink(missing_ok=True)
    job.write_text(
        json.dumps(
            {
                "params": context.params,
                "inputs": {k: str(v) for k, v in context.inputs.items()},
                "out": str(context.out),
                "hints": context.hints,
                "keep": str(context.keep),
                "threads": context.threads,
                "memory": memory,
            }
        )
    )
    code = subprocess.run(
        [python, "-c", START, function, str(job), str(end)], check=False
    ).returncode
    if end.exists():
        name, args = json.loads(end.read_text())
        raise ERRORS[name](*args)
    if code:
        raise Transient(
            f"{function.partition(':')[0].rpartition('.')[2]} ended with exit code {code} in "
            f"{python}"
        )


def run_job(argv: list[str]) -> int:
    """The entry on the other side."""
    die_with_parent()
    function, job, end = argv
    data: dict[str, Any] = json.loads(Path(job).read_text())
    inputs = {k: Path(v) for k, v in data["inputs"].items()}
    context = Context(
        data["params"],
        inputs,
        Path(data["out"]),
        data["hints"],
        Path(data["keep"]),
        data["threads"],
    )
    if data["memory"]:
        limit_memory(int(data["memory"]))
    module, _, name = function.partition(":")
    try:
        getattr(importlib.import_module(module), name)(context)
    except Infeasible as error:
        return _ended(end, "Infeasible", error.kind, str(error))
    except (Transient, UserError) as error:
        return _ended(end, type(error).__name__, str(error))
    except Exception as error:
        if not is_out_of_memory(error):
            traceback.print_exc()
            first = next(iter(str(error).splitlines()), "")
            return _ended(
                end, "Transient", f"{name} broke off: {type(error).__name__}: {first}"[:300]
            )
        room = (
            f" than the {data['memory'] / 2**30:.3g} GiB that it may have"
            if data["memory"]
            else " than there is"
        )
        return _ended(end, "Infeasible", "out_of_memory", f"{name} asked for more memory{room}")
    return 0


def _ended(end: str, *words: str) -> int:
    Path(end).write_text(json.dumps([words[0], words[1:]]))
    return 1


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception is Python's, torch's or CUDA's word for it."""
    return isinstance(error, MemoryError) or any(
        w in str(error) for w in ("t allocate memory", "out of memory", "not enough memory")
    )


def limit_memory(size: int) -> None:
    """Private memory beyond which an allocation fails instead of the machine swapping; without
    effect outside Linux.
    """
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (size, size))
