"""Record what the board of a study is.

It is asked once, and the answer counts from then on, like a hub model's commit.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.config.options import DeviceConf
from sintra.config.study import LOCAL
from sintra.core import plugins
from sintra.core.errors import UserError
from sintra.core.types import Board
from sintra.store.files import read_regular, write_atomic
from sintra.store.store import Store

if TYPE_CHECKING:
    from sintra.hardware.boards.runner import BoardIdentity


def identity_path(store: Store, device: DeviceConf) -> Path:
    """Return where a board's answer is recorded."""
    address = (device.name, device.user, device.host, device.port)
    who = "-".join(str(part or "") for part in address)
    return store.root / "pins" / f"device-{who.replace('/', '_')}.json"


def read_identity(store: Store, device: DeviceConf) -> BoardIdentity | None:
    """Read what the board answered, or None where it has not been asked with these options."""
    try:
        record = json.loads(read_regular(identity_path(store, device)))
        board: BoardIdentity = record["board"]
        current = record["asked"] == [device.python, device.bench]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return board if current and isinstance(board, dict) else None


def is_resolved(store: Store, device: DeviceConf) -> bool:
    """Return whether there is no board, or one that has been asked."""
    return device.name == LOCAL or read_identity(store, device) is not None


def resolve_board(store: Store, device: DeviceConf, say: Callable[[str], None]) -> str:
    """Ask the board what it is, record it, and return it in a line. Raises UserError, Transient."""
    if device.name == LOCAL:
        return "none"
    board: BoardIdentity = plugins.load("devices", device.name)(device, say).identify()
    record = {"asked": [device.python, device.bench], "board": board}
    write_atomic(identity_path(store, device), json.dumps(record))
    runtime = board["runtime"]
    return (
        f"{board_label(board)}, {board['memory'] / 2**30:.2f} GiB, {runtime['kind']} "
        f"{runtime['version']}"
    )


def read_board(store: Store, device: DeviceConf) -> Board | None:
    """Return the board of the options; None without one. Raises UserError for an unknown one."""
    if device.name == LOCAL:
        return None
    board = read_identity(store, device)
    if board is None:
        raise UserError(
            f"{device.host} hasn't been asked yet what it is: run `doit optimize` with the same "
            "options first"
        )
    return Board({**board}, device.threads or board["cores"], device.gpu_layers)


def board_label(board: BoardIdentity) -> str:
    """Return a board's label beside its measurements: no host name, since that may change."""
    return f"{board['board'] or board['cpu']} {board['architecture']} x{board['cores']}"
