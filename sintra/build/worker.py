"""One step in a process of its own: `python -m sintra.build.worker action.json`.

The worker takes the key's lock, looks once more whether somebody else was faster, runs the stage in
a folder under cache/tmp, and publishes. It dies with its parent. Exit codes: 0 published (an
artifact or a Failure), 2 a mistake of the user's, 75 a fault that may pass, anything else a crash;
the last line on stderr says why.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.core import plugins
from sintra.core.errors import Infeasible, Transient, UserError, disk_error
from sintra.core.process import die_with_parent, peak_rss
from sintra.core.stage import Context, Stage, cores, tool_version
from sintra.core.types import Artifact, Failure, File
from sintra.store.files import unique
from sintra.store.locks import machine as machine_lock
from sintra.store.store import Store

TRANSIENT = 75
IDLE = 19


@dataclass(frozen=True)
class Order:
    """What the parent asks for, as it stands in action.json. threads: 0 for all cores; timeout_s:
    for whoever waits; cwd: what relative paths in hints start from; background: give way to
    everything else, unless this measures a speed.
    """

    key: str
    stage: str
    step: str
    store: str
    action: dict[str, Any]
    inputs: dict[str, list[dict[str, Any]]]
    hints: dict[str, Any]
    threads: int
    timeout_s: float = 4 * 3600.0
    cwd: str = ""
    background: bool = False
    locks: str = "auto"


def bound_to_parent() -> None:
    """Die with the parent, at once where it is gone already."""
    die_with_parent()
    if os.environ.get("SINTRA_PARENT") not in (None, str(os.getppid())):
        os._exit(TRANSIENT)


@contextlib.contextmanager
def machine(store: Store, stage: Stage) -> Iterator[None]:
    """Nothing else of ours runs on this cache's machine while a speed is measured, other `doit`s
    included.
    """
    store.folder("lock")
    with machine_lock(store.root, store.locks).open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if stage.resource == "alone" else fcntl.LOCK_SH)
        yield


def give_way() -> None:
    """Run when nobody else wants the processor or the disk."""
    os.nice(IDLE)
    with contextlib.suppress(
        ImportError, AttributeError, OSError
    ):  # ionice is Linux's and Windows' only
        import psutil

        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def same_tools(order: Order, stage: Stage) -> None:
    """Another machine must have the versions that the key names. Raises UserError."""
    for name, asked in order.action.get("tools", {}).items():
        if (here := tool_version(name)) != asked:
            raise UserError(
                f"{socket.gethostname()} has {name} {here} where this study stands on {asked}: "
                "install that there"
            )
    if (asked := order.action.get("version", stage.version)) != stage.version:
        raise UserError(
            f"{socket.gethostname()} has version {stage.version} of {order.stage}, not {asked}: "
            "update Sintra there"
        )


def perform(order: Order) -> None:
    """Run the step unless the store has it, and publish what comes of it."""
    store, stage = Store(Path(order.store), order.locks), plugins.load_step(order.stage)
    same_tools(order, stage)
    if order.background and stage.resource != "alone":
        give_way()
    with store.lock(order.key), machine(store, stage):
        if store.lookup(order.key) is not None:
            return
        folder = store.folder("tmp") / f"{order.key}.{unique()}"
        start = time.monotonic()
        try:
            outcome = attempt(order, store, stage, folder)
            made = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            about = {
                "step": order.step,
                "stage": order.stage,
                "action": order.action,
                "peak_rss": peak_rss(),
                "wall_s": round(time.monotonic() - start, 3),
                "made": made,
            }
            store.publish(order.key, outcome, about)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def attempt(order: Order, store: Store, stage: Stage, folder: Path) -> Artifact | Failure:
    """The stage's artifact, or its failure where it can never work."""
    (folder / "out").mkdir(parents=True)
    keep = store.folder("downloads") / order.key
    inputs = {}
    for role, files in order.inputs.items():
        (folder / role).mkdir()
        given = Artifact(tuple(File(**f) for f in files))
        if wrong := next((f for f in given.files if not store.genuine(f)), None):
            raise Transient(
                f"{wrong.path} of {role} is damaged on disk: put into quarantine, the same again "
                "builds it anew"
            )
        inputs[role] = store.lay_out(given, folder / role)
    context = Context(
        order.action["params"], inputs, folder / "out", order.hints, keep, order.threads or cores()
    )
    try:
        stage.run(context)
    except Infeasible as error:
        return Failure(error.kind, str(error))
    except MemoryError:
        return Failure("out_of_memory", f"{order.step} asked for more memory than there is")
    artifact = store.put_tree(folder / "out")
    shutil.rmtree(keep, ignore_errors=True)
    return artifact


def main(argv: list[str]) -> int:
    """The process's entry."""
    bound_to_parent()
    order = Order(**json.loads(Path(argv[0]).read_text()))
    try:
        perform(order)
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        return 2
    except Transient as error:
        print(f"sintra: {error}", file=sys.stderr)
        return TRANSIENT
    except OSError as error:
        trouble = disk_error(error, Path(order.store))
        if not isinstance(trouble, Transient):
            raise
        print(f"sintra: {trouble}", file=sys.stderr)
        return TRANSIENT
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
