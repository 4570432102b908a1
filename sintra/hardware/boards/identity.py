"""The board that a study measures on: asked once what it is, and known from then on like a hub
model's commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sintra.config.options import DeviceConf
from sintra.config.study import LOCAL
from sintra.core import plugins
from sintra.core.errors import UserError
from sintra.core.types import Board
from sintra.store.files import write_atomic
from sintra.store.store import Store


def path_of(store: Store, conf: DeviceConf) -> Path:
    """Where what a board said of itself is recorded."""
    who = "-".join(str(getattr(conf, k) or "") for k in ("name", "user", "host", "port"))
    return store.root / "pins" / f"device-{who.replace('/', '_')}.json"


def identity(store: Store, conf: DeviceConf) -> dict[str, Any] | None:
    """What the board said of itself, or None where it hasn't been asked."""
    try:
        found: dict[str, Any] = json.loads(path_of(store, conf).read_bytes())
    except (OSError, ValueError):
        return None
    return found["board"] if found["asked"] == [conf.python, conf.bench] else None


def ready(store: Store, conf: DeviceConf) -> bool:
    """Whether there is no board, or one that is known."""
    return conf.name == LOCAL or identity(store, conf) is not None


def resolve(store: Store, conf: DeviceConf, say: Callable[[str], None]) -> str:
    """Ask the board what it is, and record it; it in a line. Raises UserError, Transient."""
    if conf.name == LOCAL:
        return "none"
    found = plugins.load("devices", conf.name)(conf, say).identify()
    write_atomic(
        path_of(store, conf), json.dumps({"asked": [conf.python, conf.bench], "board": found})
    )
    return (
        f"{where(found)}, {found['memory'] / 2**30:.2f} GiB, {found['runtime']['kind']} "
        f"{found['runtime']['version']}"
    )


def known(store: Store, conf: DeviceConf) -> Board | None:
    """Return the board of the options; None without one. Raises UserError for an unknown one."""
    if conf.name == LOCAL:
        return None
    answer = identity(store, conf)
    if answer is None:
        raise UserError(
            f"{conf.host} hasn't been asked yet what it is: run `doit optimize` with the same "
            "options first"
        )
    return Board(answer, conf.threads or answer["cores"], conf.gpu_layers)


def where(board: dict[str, Any]) -> str:
    """A board's name beside its measurements: no host name, since that may change."""
    return f"{board['board'] or board['cpu']} {board['architecture']} x{board['cores']}"
