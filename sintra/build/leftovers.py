"""What killed workers and killed runs leave in a cache, and its removal."""

from __future__ import annotations

import contextlib
import os

from sintra.build.run_state import Run
from sintra.core.canonical import sha256
from sintra.store.files import remove_path
from sintra.store.store import Store


def host_digest() -> str:
    """Return this machine's name as eight hexadecimal digits, for a file's name."""
    return sha256(os.uname().nodename)[:8]


def sweep_once(store: Store, run: Run) -> None:
    """Remove what killed workers and killed runs left in a cache, once in a run."""
    if store.root in run.swept:
        return
    run.swept.add(store.root)
    store.sweep_tmp()
    # on a shared cache, only this machine's processes can be asked for
    for path in store.folder("orders").glob(f"*.{host_digest()}.*"):
        owner = path.name.split(".")[0]
        if owner.isdecimal() and not is_alive(int(owner)):
            with contextlib.suppress(OSError):
                remove_path(path)


def is_alive(process: int) -> bool:
    """Return whether a process of this machine is there, whoever's it is."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
