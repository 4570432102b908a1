"""Leave this process only the system calls of a program that computes, by a seccomp filter
(https://docs.kernel.org/userspace-api/seccomp_filter.html).

What is not listed fails with EPERM: processes and threads, signals, sockets, changes of files and
of their attributes, other programs, namespaces, tracing. Files are opened for reading only. The
filter is written out here because it is applied where no package can be imported, and libseccomp is
not on every machine. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
from dataclasses import dataclass

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
ALLOW, KILL, DENY = 0x7FFF0000, 0x80000000, 0x00050000 | errno.EPERM
LOAD, JUMP_EQUAL, JUMP_SET, RETURN = 0x20, 0x15, 0x45, 0x06
NUMBER, ARCHITECTURE, ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
# O_NONBLOCK, O_CLOEXEC and, by architecture, O_LARGEFILE, O_DIRECTORY, O_NOFOLLOW
OPEN_COMMON = 0o4000 | 0o2000000
IOCTLS = (0x5401, 0x5413, 0x5450, 0x5451)  # TCGETS, TIOCGWINSZ, FIONCLEX, FIOCLEX
FCNTLS = (0, 1, 2, 3, 1030)  # F_DUPFD, F_GETFD, F_SETFD, F_GETFL, F_DUPFD_CLOEXEC


@dataclass(frozen=True)
class Machine:
    """The numbers of one architecture."""

    architecture: int  # AUDIT_ARCH_*
    calls: tuple[int, ...]  # allowed with any arguments
    opens: tuple[tuple[int, int], ...]  # number, position of the flags
    ioctl: int
    fcntl: int
    prlimit: int
    open_flags: int  # flags that opening may have; reading is 0


# fmt: off
MACHINES = {
    "x86_64": Machine(
        0xC000003E,
        (
            0, 1, 3, 4, 5, 6, 7, 8,  # read write close stat fstat lstat poll lseek
            9, 10, 11, 12, 25, 28,  # mmap mprotect munmap brk mremap madvise
            13, 14, 15, 131,  # rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
            17, 19, 20, 21, 32,  # pread64 readv writev access dup
            23, 24, 270, 271,  # select sched_yield pselect6 ppoll
            35, 36, 37, 38, 230,  # nanosleep getitimer alarm setitimer clock_nanosleep
            39, 110, 186, 102, 104, 107, 108, 115,  # getpid getppid gettid get(e)uid, gid, groups
            60, 231, 219,  # exit exit_group restart_syscall
            63, 79, 89, 96, 97, 98, 99, 100,  # uname getcwd readlink gettimeofday getrlimit
            201, 228, 229, 204,  # ... getrusage sysinfo times; time clock_* sched_getaffinity
            202, 273, 334,  # futex set_robust_list rseq
            217, 262, 267, 269, 439, 332,  # getdents64 newfstatat readlinkat faccessat(2) statx
            318,  # getrandom
        ),
        opens=((2, 1), (257, 2)),  # open, openat
        ioctl=16, fcntl=72, prlimit=302,
        open_flags=OPEN_COMMON | 0o100000 | 0o200000 | 0o400000,
    ),
    "aarch64": Machine(
        0xC00000B7,
        (
            63, 64, 57, 80, 62, 73,  # read write close fstat lseek ppoll
            222, 226, 215, 214, 216, 233,  # mmap mprotect munmap brk mremap madvise
            134, 135, 139, 132,  # rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack
            67, 65, 66, 48, 439, 23,  # pread64 readv writev faccessat(2) dup
            72, 124, 101, 115,  # pselect6 sched_yield nanosleep clock_nanosleep
            102, 103,  # getitimer setitimer
            172, 173, 178, 174, 175, 176, 177, 158,  # getpid getppid gettid get(e)uid, gid, groups
            93, 94, 128,  # exit exit_group restart_syscall
            160, 17, 78, 169, 163, 165, 179, 153,  # uname getcwd readlinkat gettimeofday getrlimit
            113, 114, 123,  # ... getrusage sysinfo times; clock_* sched_getaffinity
            98, 99, 293,  # futex set_robust_list rseq
            61, 79, 291,  # getdents64 newfstatat statx
            278,  # getrandom
        ),
        opens=((56, 2),),  # openat
        ioctl=29, fcntl=25, prlimit=261,
        open_flags=OPEN_COMMON | 0o400000 | 0o40000 | 0o100000,
    ),
}
# fmt: on


def this_machine() -> Machine | None:
    """Return the numbers of this machine, or None where they are not known."""
    return MACHINES.get(platform.machine()) if struct.calcsize("P") == 8 else None


def instruction(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    """Return a struct sock_filter; true, false: instructions to skip after a comparison."""
    return struct.pack("=HBBI", code, true, false, value)


def filter_program(machine: Machine) -> bytes:
    """Return the filter as BPF instructions."""
    program = [
        instruction(LOAD, ARCHITECTURE),
        instruction(JUMP_EQUAL, machine.architecture, 1, 0),
        instruction(RETURN, KILL),
        instruction(LOAD, NUMBER),
    ]
    for number, position in machine.opens:
        check = [
            instruction(LOAD, ARGUMENTS + 8 * position),
            instruction(JUMP_SET, ~machine.open_flags & 0xFFFFFFFF, 0, 1),
        ]
        program += _when(number, [*check, instruction(RETURN, DENY), instruction(RETURN, ALLOW)])
    program += _when(machine.ioctl, _one_of(1, IOCTLS)) + _when(machine.fcntl, _one_of(1, FCNTLS))
    program += _when(machine.prlimit, _null(2))
    for number in machine.calls:
        program += [instruction(JUMP_EQUAL, number, 0, 1), instruction(RETURN, ALLOW)]
    return b"".join([*program, instruction(RETURN, DENY)])


def _when(number: int, block: list[bytes]) -> list[bytes]:
    """Return a block that decides about one system call, with the comparison before it."""
    return [instruction(JUMP_EQUAL, number, 0, len(block)), *block]


def _one_of(position: int, values: tuple[int, ...]) -> list[bytes]:
    """Allow an argument of 32 bits that is one of the values."""
    block = [instruction(LOAD, ARGUMENTS + 8 * position)]
    for value in values:
        block += [instruction(JUMP_EQUAL, value, 0, 1), instruction(RETURN, ALLOW)]
    return [*block, instruction(RETURN, DENY)]


def _null(position: int) -> list[bytes]:
    """Allow an argument of 64 bits that is 0."""
    low, high = ARGUMENTS + 8 * position, ARGUMENTS + 8 * position + 4
    return [
        instruction(LOAD, low),
        instruction(JUMP_EQUAL, 0, 0, 3),
        instruction(LOAD, high),
        instruction(JUMP_EQUAL, 0, 0, 1),
        instruction(RETURN, ALLOW),
        instruction(RETURN, DENY),
    ]


class Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def allow_only_computing(libc: ctypes.CDLL, machine: Machine) -> None:
    """Apply the filter; it cannot be taken off. Raises OSError. Needs no_new_privs."""
    code = filter_program(machine)
    program = Program(len(code) // 8, code)
    if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_SECCOMP)")
