"""Give up every right that a computation does not need, for good (Linux). Standard library only.

What the layers forbid overlaps on purpose: a right that an older kernel's Landlock does not know
(truncate, signals) is taken by seccomp as well.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import sys
import sysconfig

from sintra.core.jail.landlock import allow_only_reading, landlock_abi
from sintra.core.jail.seccomp import Machine, allow_only_computing, this_machine
from sintra.core.jail.user import become_nobody

PR_SET_PDEATHSIG, PR_SET_DUMPABLE, PR_SET_NO_NEW_PRIVS = 1, 4, 38
# besides Python's own library: shared libraries, time zones, randomness
READABLE = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/usr/share/zoneinfo",
    "/dev/null",
    "/dev/urandom",
)


class JailError(Exception):
    """What this machine cannot give, in one line."""


def missing_parts() -> str:
    """Return what a jail needs and this machine does not have, in one line; "" for nothing."""
    if sys.platform != "linux":
        return f"it needs Linux, and this is {sys.platform}"
    if this_machine() is None:
        return "its list of system calls is for x86-64 and 64-bit Arm"
    if not landlock_abi(ctypes.CDLL(None, use_errno=True)):
        return "this kernel has no Landlock (Linux 5.13 or later, with landlock among its LSMs)"
    return ""


def confine(seconds: int, megabytes: int) -> None:
    """Leave this process a time (CPU seconds), memory (MiB of addresses) and reading Python.

    Raises JailError where this machine lacks a part; then the process must not go on.
    """
    machine = this_machine()
    if missing := missing_parts():
        raise JailError(missing)
    assert machine
    try:
        give_up_rights(ctypes.CDLL(None, use_errno=True), machine, seconds, megabytes)
    except (OSError, ValueError) as error:
        raise JailError(
            f"this machine refuses a part of it ({' '.join(str(error).split())})"
        ) from None


def give_up_rights(libc: ctypes.CDLL, machine: Machine, seconds: int, megabytes: int) -> None:
    """Apply every layer in the order that each needs. Raises OSError and ValueError."""
    become_nobody(libc)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # a change of user had taken it off
    libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_NO_NEW_PRIVS)")
    allow_only_reading(libc, readable_paths())
    set_limits(seconds, megabytes)
    allow_only_computing(libc, machine)


def readable_paths() -> list[str]:
    """Return what a program may read: Python's own library, and shared ones."""
    paths = sysconfig.get_paths()
    own = [paths["stdlib"], paths["platstdlib"], str(sysconfig.get_config_var("DESTSHARED") or "")]
    return [*dict.fromkeys(path for path in (*own, *loaded_folders(), *READABLE) if path)]


def loaded_folders() -> list[str]:
    """Return the folders of the shared libraries that this process has loaded."""
    with open("/proc/self/maps") as maps:  # noqa: PTH123
        names = [line.split(maxsplit=5)[5].strip() for line in maps if "/" in line]
    return [os.path.dirname(name) for name in names if ".so" in os.path.basename(name)]  # noqa: PTH119, PTH120


def set_limits(seconds: int, megabytes: int) -> None:
    """Set the rlimits, hard and soft. Raises OSError and ValueError."""
    for number, most in limits(seconds, megabytes).items():
        resource.setrlimit(number, (most, most))


def set_possible_limits(seconds: int, megabytes: int) -> None:
    """Set those of the rlimits that this system has (macOS has none on addresses)."""
    for number, most in limits(seconds, megabytes).items():
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(number, (most, most))


def limits(seconds: int, megabytes: int) -> dict[int, int]:
    """Return the rlimits of a confined process."""
    return {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: megabytes << 20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_MEMLOCK: 0,
    }
