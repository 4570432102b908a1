"""Be nobody: give up root and every capability (Linux). Standard library only."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct

PR_SET_KEEPCAPS = 8
CAPABILITY_VERSION = 0x20080522
CAP_DAC_READ_SEARCH = 1 << 2


def become_nobody(libc: ctypes.CDLL) -> None:
    """Become the user nobody if this is root, and give up every capability in any case.

    Where Python lies in a folder of root's own, the right to read past a file's mode is kept:
    Landlock then decides alone what is read. Raises OSError where no other user can be become, or
    that user could not read Python.
    """
    if 0 in (*os.getresuid(), *os.getresgid()):
        libc.prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0)
        try:
            change_user(*_nobody())
        except OSError as error:
            raise OSError(f"root cannot become the user nobody: {error.strerror}") from None
    kept_back = set_capabilities(libc, 0, permitted=CAP_DAC_READ_SEARCH)
    if not _reads_python() and kept_back:
        set_capabilities(libc, CAP_DAC_READ_SEARCH, permitted=CAP_DAC_READ_SEARCH)
    elif not set_capabilities(libc, 0, permitted=0):
        raise OSError(ctypes.get_errno(), "capset")
    if not _reads_python():
        raise OSError(f"user {os.getuid()} cannot read Python's library, {os.__file__}")


def change_user(user: int, group: int) -> None:
    """Become a user, in one group and no other. Raises OSError."""
    os.setgroups([])
    os.setresgid(group, group, group)
    os.setresuid(user, user, user)


def _nobody() -> tuple[int, int]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return 65534, 65534
    return entry.pw_uid, entry.pw_gid


def _reads_python() -> bool:
    """Return whether the standard library can be read now."""
    try:
        with open(os.__file__, "rb"):  # noqa: PTH123
            return True
    except OSError:
        return False


def set_capabilities(libc: ctypes.CDLL, effective: int, permitted: int) -> bool:
    """Make two masks of the first 32 capabilities the only ones.

    Return whether the kernel allows it.
    """
    header = struct.pack("=Ii", CAPABILITY_VERSION, 0)
    data = struct.pack("=6I", effective, permitted, 0, 0, 0, 0)
    return bool(libc.capset(header, data) == 0)
