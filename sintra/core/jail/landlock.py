"""Confine this process to reading a few paths, by Landlock
(https://docs.kernel.org/userspace-api/landlock.html).

Every right and scope that the kernel's ABI knows is handled, and only reading below the given paths
is allowed again. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterable

CREATE, ADD_RULE, RESTRICT = 444, 445, 446  # the same numbers on every architecture
READ_FILE, READ_DIR = 1 << 2, 1 << 3
# ABI -> number of filesystem rights: execute ... make_sym, refer, truncate, ioctl_dev
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
NET_RIGHTS = {4: 2}  # bind_tcp, connect_tcp
SCOPES = {6: 2}  # abstract Unix sockets, signals


def landlock_abi(libc: ctypes.CDLL) -> int:
    """Return the kernel's Landlock ABI, from 1; 0 where there is none, or it is switched off."""
    return max(0, int(libc.syscall(CREATE, None, ctypes.c_size_t(0), 1)))


def allow_only_reading(libc: ctypes.CDLL, paths: Iterable[str]) -> None:
    """Forbid all that Landlock can forbid, but for reading the paths and what lies below them.

    Paths that are missing are left out. Raises OSError. Needs no_new_privs.
    """
    attribute = handled_rights(landlock_abi(libc))
    ruleset = libc.syscall(CREATE, attribute, ctypes.c_size_t(len(attribute)), 0)
    if ruleset < 0:
        raise OSError(ctypes.get_errno(), "landlock_create_ruleset")
    for path in paths:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            add_rule(libc, ruleset, path)
    if libc.syscall(RESTRICT, ruleset, 0):
        raise OSError(ctypes.get_errno(), "landlock_restrict_self")
    os.close(ruleset)


def handled_rights(abi: int) -> bytes:
    """Return the struct landlock_ruleset_attr with every right and scope of an ABI."""
    values = [(1 << _known_at(table, abi)) - 1 for table in (FILE_RIGHTS, NET_RIGHTS, SCOPES)]
    fields = 3 if abi >= 6 else 2 if abi >= 4 else 1
    return struct.pack(f"={fields}Q", *values[:fields])


def _known_at(table: dict[int, int], abi: int) -> int:
    """Return the entry of the newest ABI that is not above `abi`, or 0."""
    return max((count for since, count in table.items() if since <= abi), default=0)


def add_rule(libc: ctypes.CDLL, ruleset: int, path: str) -> None:
    """Allow reading a file, or a folder with all below it. Raises OSError."""
    file = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        rights = READ_FILE | READ_DIR if os.path.isdir(path) else READ_FILE  # noqa: PTH112
        rule = struct.pack("=Qi", rights, file)
        if libc.syscall(ADD_RULE, ruleset, 1, rule, 0):
            raise OSError(ctypes.get_errno(), f"landlock_add_rule: {path}")
    finally:
        os.close(file)
