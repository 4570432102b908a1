"""Run one step in a process of its own: `python -m sintra.build.worker order.json`.

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
from sintra.core.artifact import Artifact, Failure, File
from sintra.core.errors import Infeasible, Transient, UserError, disk_error
from sintra.core.process import die_with_parent, peak_rss
from sintra.core.stage import Context, Hints, Stage, cores, tool_version
from sintra.store.entries import StepRecord
from sintra.store.files import unique_name
from sintra.store.locks import machine_lock_path, open_lock
from sintra.store.store import Outcome, Store

TRANSIENT = 75
IDLE = 19


@dataclass(frozen=True)
class Order:
    """What the parent asks for, as it stands in the order's file."""

    key: str  # of the action
    stage: str
    step: str  # its name
    store: str  # path of the cache
    action: dict[str, Any]  # all that the key is made of
    inputs: dict[str, list[dict[str, Any]]]  # role -> files
    hints: Hints  # what helps but isn't part of the key
    threads: int  # 0: all cores
    timeout_s: float = 4 * 3600.0  # for whoever waits, seconds
    cwd: str = ""  # what relative paths in hints start from
    background: bool = False  # whether it runs at the lowest priority, unless it measures a speed
    locks: str = "auto"  # kind of the store's locks


def bind_to_parent() -> None:
    """End with the parent; at once where it is gone already."""
    die_with_parent()
    if os.environ.get("SINTRA_PARENT") not in (None, str(os.getppid())):
        os._exit(TRANSIENT)


@contextlib.contextmanager
def machine_lock(store: Store, stage: Stage) -> Iterator[None]:
    """Hold the machine's lock, alone while a speed is measured.

    Other `doit`s on this cache wait for it too.
    """
    store.folder("lock")
    with open_lock(machine_lock_path(store.root, store.lock_kind)) as handle:
        fcntl.flock(handle, fcntl.LOCK_EX if stage.resource == "alone" else fcntl.LOCK_SH)
        yield


def give_way() -> None:
    """Take the lowest priority for the processor and the disk."""
    os.nice(IDLE)
    with contextlib.suppress(ImportError, AttributeError, OSError):
        import psutil  # ionice exists on Linux and Windows only

        psutil.Process().ionice(psutil.IOPRIO_CLASS_IDLE)


def check_tools(order: Order, stage: Stage) -> None:
    """Raise UserError where this machine lacks the versions that the key names."""
    for name, version in order.action.get("tools", {}).items():
        if (here := tool_version(name)) != version:
            raise UserError(
                f"{socket.gethostname()} has {name} {here} where this study stands on {version}: "
                "install that there"
            )
    if (version := order.action.get("version", stage.version)) != stage.version:
        raise UserError(
            f"{socket.gethostname()} has version {stage.version} of {order.stage}, not {version}: "
            "update Sintra there"
        )


def perform(order: Order) -> None:
    """Run the step unless the store has its outcome, and publish the outcome."""
    store = Store(Path(order.store), order.locks)
    stage: Stage = plugins.load_step(order.stage)
    check_tools(order, stage)

    def accept(outcome: Outcome) -> bool:
        return stage.accepts(order.action["params"], outcome)

    if order.background and stage.resource != "alone":
        give_way()
    with store.lock(order.key), machine_lock(store, stage):
        if store.lookup(order.key, accept) is not None:
            return
        folder = store.folder("tmp") / f"{order.key}.{unique_name()}"
        start = time.monotonic()
        try:
            outcome = attempt(order, store, stage, folder)
            if not accept(outcome):
                names = ", ".join(stage.declared) or "other files"
                raise RuntimeError(f"{order.stage} declares {names} and didn't write them")
            about: StepRecord = {
                "step": order.step,
                "stage": order.stage,
                "action": order.action,
                "peak_rss": peak_rss(),
                "wall_s": round(time.monotonic() - start, 3),
                "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            store.publish(order.key, outcome, about, accept, folder / "out")
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def attempt(order: Order, store: Store, stage: Stage, folder: Path) -> Artifact | Failure:
    """Return the stage's artifact, or its failure where it can never work. Raises Transient."""
    (folder / "out").mkdir(parents=True)
    keep = store.folder("downloads") / order.key
    inputs = {}
    for role, files in order.inputs.items():
        (folder / role).mkdir()
        artifact = Artifact(tuple(File(**f) for f in files))
        if wrong := next((f for f in artifact.files if not store.check_blob(f)), None):
            raise Transient(
                f"{wrong.path} of {role} is damaged on disk: put into quarantine, the same again "
                "builds it again"
            )
        inputs[role] = store.lay_out(artifact, folder / role)
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
    """Run the order that the command line names; return the exit code."""
    bind_to_parent()
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
