"""Run one untrusted Python program: `python -I -S jail.py PROGRAM SECONDS MEGABYTES`.

Standard library only. Before the program starts, this process gives up what it can: time, memory,
processes and files by rlimits; new privileges; the network by an empty network namespace
(unshare(2)); every write to the filesystem by Landlock
(https://docs.kernel.org/userspace-api/landlock.html). The last two need Linux and are skipped where
the kernel has none; `sintra.probes.evaluation.code.network_is_cut` tests the network.
"""

from __future__ import annotations

import ctypes
import os
import resource
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_PDEATHSIG, SIGKILL = 38, 1, 9
CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
LANDLOCK_CREATE, LANDLOCK_RESTRICT = 444, 446  # the same numbers on every architecture
# write_file, remove_dir ... make_sym: ABI 1
WRITES = 1 << 1 | sum(1 << bit for bit in range(4, 13))


def set_limits(seconds: int, megabytes: int) -> None:
    """Set the rlimits, hard and soft: CPU seconds and MiB of address space."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: megabytes << 20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 32,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NPROC: 0,
    }
    for number, most in limits.items():
        resource.setrlimit(number, (most, most))


def leave_network(libc: ctypes.CDLL) -> bool:
    """Enter a network namespace with nothing in it; return whether the kernel allowed it."""
    return bool(libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) == 0 or libc.unshare(CLONE_NEWNET) == 0)


def forbid_writes(libc: ctypes.CDLL) -> bool:
    """Apply a Landlock ruleset that allows no write; return whether the kernel allowed it."""
    handled = ctypes.create_string_buffer(struct.pack("=Q", WRITES))
    ruleset = libc.syscall(LANDLOCK_CREATE, handled, ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return False
    applied = libc.syscall(LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return bool(applied)


def run_program(program: str, seconds: str, megabytes: str) -> None:
    """Give everything up, then become the program."""
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(PR_SET_PDEATHSIG, SIGKILL)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        leave_network(libc)
        forbid_writes(libc)
    set_limits(int(seconds), int(megabytes))
    os.execv(sys.executable, [sys.executable, "-I", "-S", program])


if __name__ == "__main__":
    run_program(*sys.argv[1:])
