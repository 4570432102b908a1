"""The child process of `run_tests`: the program, or its tests. Standard library only.

Arguments: the role (tests or program), CPU seconds, MiB of addresses, and a file descriptor of the
channel between the two; for the tests, another to which the verdict is written as JSON. The source
comes on standard input. Not a line of it is run before every right is given up.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from sintra.core.jail.confine import JailError, confine
from sintra.probes.evaluation.program.peer import Ended, Peer

REASON = 200  # characters of a reason


def main(role: str, seconds: str, megabytes: str, channel: str, verdict: str = "-1") -> None:
    """Run one of the two and end this process."""
    source = sys.stdin.buffer.read().decode(errors="replace")
    peer = Peer(
        open(int(channel), "rb"),  # noqa: PTH123, SIM115
        open(int(channel), "wb", closefd=False),  # noqa: SIM115
        trusts=role == "program",
    )
    forget_sintra()
    try:
        confine(int(seconds), int(megabytes))
    except JailError as error:
        outcome = {"refused": str(error)}
    else:
        outcome = judge(peer, source) if role == "tests" else serve(peer, source)
    if role == "tests":
        os.write(int(verdict), json.dumps(outcome).encode())
    os._exit(0)


def forget_sintra() -> None:
    """Let the source import the standard library alone."""
    for name in [n for n in sys.modules if n.partition(".")[0] == "sintra"]:
        del sys.modules[name]
    sys.path[:] = [p for p in sys.path if "site-packages" not in p]
    sys.argv[:] = ["program.py"]


def judge(peer: Peer, tests: str) -> dict[str, str]:
    """Wait for the program to be ready, run the tests with its names, return the verdict."""
    try:
        names, _ = peer.await_answer()
        namespace = {"__name__": "__main__", **names}
        exec(compile(tests, "<tests>", "exec"), namespace)  # run, with every right given up
    except Ended as error:
        return {"failed": f"the program does not answer: {error}"}
    except BaseException as error:
        return {"failed": described(error)}
    return {"passed": ""}


def described(error: BaseException) -> str:
    """Return an exception in one line."""
    try:
        return " ".join(f"{type(error).__name__}: {error}".split())[:REASON]
    except BaseException:
        return type(error).__name__[:REASON]


def serve(peer: Peer, program: str) -> dict[str, str]:
    """Run the program, then let the tests use what it has defined, until they end."""
    namespace: dict[str, Any] = {"__name__": "__main__"}
    try:
        exec(compile(program, "<program>", "exec"), namespace)  # run, with every right given up
        packed = packed_names(peer, namespace)
        peer.send(["value", ["dict", packed], ["list", []]])
    except BaseException as error:
        peer.send(peer.failure(error))
    while True:  # the tests' end of the channel closes, and receiving raises
        try:
            peer.await_answer()
        except Ended:
            return {}


def packed_names(peer: Peer, namespace: dict[str, Any]) -> list[list[Any]]:
    """Return the names that a program has defined, as JSON."""
    packed = []
    for name, value in namespace.items():
        if name.startswith("__"):
            continue
        try:
            packed.append([name, peer.pack(value)])
        except (RecursionError, RuntimeError):
            packed.append([name, peer.refer(value)])
    return packed
