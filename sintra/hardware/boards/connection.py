"""Connect to a board by SSH: a verified host key, and keys or an agent.

Whatever goes wrong is one line for the user.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.config.options import DeviceConf
from sintra.config.quoting import user_path
from sintra.core.errors import Transient, UserError

try:
    import asyncssh
except ImportError:
    raise UserError(
        "device=ssh needs asyncssh: pip install -c constraints.txt -e '.[ssh]'"
    ) from None

CONNECT_S, KEEPALIVE_S = 15, 10  # seconds
SILENCES = 3  # unanswered keepalives after which the connection is lost
KEY_FILE = "/etc/ssh/ssh_host_ed25519_key.pub"
DEFAULT_PORT = 22


@dataclass(frozen=True)
class SshTarget:
    """Hold where the board is and how it is reached (options device.*)."""

    host: str  # name, address or alias of ~/.ssh/config
    port: int | None  # None: what ~/.ssh/config or OpenSSH's defaults say
    user: str  # "": what ~/.ssh/config or OpenSSH's defaults say
    key: str  # private key file; "": the agent and ~/.ssh's own
    known_hosts: str  # file of trusted host keys
    folder: str  # on the board, relative to its home
    python: str  # a Python there that has llama-cpp-python; "": ours, or python3
    bench: str  # a llama-bench there, used instead; "": none
    install: bool  # whether llama-cpp-python is installed there
    timeout_s: float  # a measurement may take so long, seconds

    @property
    def name(self) -> str:
        """Return the board's name for messages."""
        return self.host if self.port in (None, DEFAULT_PORT) else f"{self.host}:{self.port}"

    @property
    def known_hosts_path(self) -> Path:
        """Return the file of trusted host keys."""
        return user_path(self.known_hosts)

    @staticmethod
    def of(device: DeviceConf) -> SshTarget:
        """Return the target of the options."""
        names = SshTarget.__dataclass_fields__
        return SshTarget(**{name: getattr(device, name) for name in names})


@contextlib.asynccontextmanager
async def open_connection(target: SshTarget) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """Open a connection.

    Raises UserError for what the user has to settle, Transient for what may pass.
    """
    if not target.known_hosts_path.is_file():
        raise UserError(await untrusted_key_message(target, "isn't known"))
    try:
        connection = await asyncssh.connect(target.host, **_ssh_options(target))
    except asyncssh.HostKeyNotVerifiable:
        raise UserError(await untrusted_key_message(target, key_problem(target))) from None
    except asyncssh.PermissionDenied:
        keys = target.key or "your agent and ~/.ssh"
        raise UserError(
            f"{target.name} takes none of your keys ({keys}): `ssh-copy-id` puts one there, or "
            "name another user (device.user) or key (device.key)"
        ) from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as error:
        raise UserError(
            f"device.key={target.key} can't be used ({error}): a key with a passphrase goes into "
            "the agent (`ssh-add`)"
        ) from None
    except FileNotFoundError as error:
        raise UserError(
            f"device.key={target.key}: there is no such file ({error.strerror})"
        ) from None
    except (OSError, asyncssh.Error, TimeoutError) as error:
        why = str(error) or type(error).__name__
        raise Transient(
            f"{target.name} can't be reached by SSH ({why}): is the board on, and device.host "
            "right?"
        ) from None
    async with connection:
        yield connection


def _ssh_options(target: SshTarget) -> dict[str, Any]:
    """Return the arguments of asyncssh.connect."""
    options: dict[str, Any] = {
        "known_hosts": str(target.known_hosts_path),
        "preferred_auth": "publickey",
        "connect_timeout": CONNECT_S,
        "login_timeout": CONNECT_S,
        "keepalive_interval": KEEPALIVE_S,
        "keepalive_count_max": SILENCES,
    }
    options |= {"port": target.port} if target.port else {}
    options |= {"username": target.user} if target.user else {}
    options |= {"client_keys": [str(user_path(target.key))]} if target.key else {}
    return options


def key_problem(target: SshTarget) -> str:
    """Return what is wrong with a host key that isn't trusted: it has changed, or it is new."""
    try:
        trusted = asyncssh.read_known_hosts(str(target.known_hosts_path)).match(
            target.host, "", target.port or DEFAULT_PORT
        )
    except (OSError, ValueError):
        return "can't be looked up"
    return "has changed" if trusted[0] else "isn't known"


async def untrusted_key_message(target: SshTarget, problem: str) -> str:
    """Return the line for a host whose key isn't trusted, with the key that it shows."""
    port, fingerprint = target.port or DEFAULT_PORT, ""
    with contextlib.suppress(OSError, asyncssh.Error, asyncio.TimeoutError):
        key = await asyncio.wait_for(asyncssh.get_server_host_key(target.host, port), CONNECT_S)
        fingerprint = f" ({key.get_fingerprint()})" if key else ""
    known = quote_path(target.known_hosts)
    scan = f"ssh-keyscan -p {port} {shlex.quote(target.host)} >> {known}"
    compare = f"compare it with `ssh-keygen -lf {KEY_FILE}` on the board"
    if problem == "has changed":
        name = target.host if target.name == target.host else f"[{target.host}]:{target.port}"
        return (
            f"the host key of {target.name} has changed{fingerprint}, and nothing was sent: "
            f"somebody may be in between, or the board was set up again; {compare}, then "
            f"`ssh-keygen -R {shlex.quote(name)} -f {known}` and `{scan}`"
        )
    return f"the host key of {target.name} {problem}{fingerprint}: {compare}, then `{scan}`"


def quote_path(path: str) -> str:
    """Return a path as a word of a shell's command line; a leading ~/ is the home there."""
    return "~/" + shlex.quote(path[2:]) if path.startswith("~/") else shlex.quote(path)


def is_connection_lost(error: BaseException) -> bool:
    """Return whether an error means that the connection is gone."""
    gone = (
        asyncssh.DisconnectError,
        asyncssh.SFTPConnectionLost,
        asyncssh.SFTPNoConnection,
        asyncssh.ChannelOpenError,
        ConnectionError,
        TimeoutError,
        EOFError,
    )
    return isinstance(error, gone)
