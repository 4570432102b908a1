"""A connection to a board: asyncssh, a verified host key, keys or an agent, and one line for
whatever goes wrong.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sintra.config.options import DeviceConf
from sintra.core.errors import Transient, UserError

try:
    import asyncssh
except ImportError:
    raise UserError(
        "device=ssh needs asyncssh: pip install -c constraints.txt -e '.[ssh]'"
    ) from None

CONNECT_S, KEEPALIVE_S, SILENCES = 15, 10, 3
KEY_FILE = "/etc/ssh/ssh_host_ed25519_key.pub"


@dataclass(frozen=True)
class Target:
    """Where the board is and how it is spoken to (options device.*). port and user: None for what
    ~/.ssh/config or OpenSSH's defaults say; key: a private key file, "" for the agent and ~/.ssh's
    own; folder: on the board, relative to its home.
    """

    host: str
    port: int | None
    user: str
    key: str
    known_hosts: str
    folder: str
    python: str
    bench: str
    install: bool
    timeout_s: float

    @property
    def name(self) -> str:
        """For messages."""
        return self.host if self.port in (None, 22) else f"{self.host}:{self.port}"

    @property
    def hosts(self) -> Path:
        """The file of trusted host keys."""
        return Path(self.known_hosts).expanduser()

    @staticmethod
    def of(options: DeviceConf) -> Target:
        """From the options."""
        return Target(**{name: getattr(options, name) for name in Target.__dataclass_fields__})


@contextlib.asynccontextmanager
async def connected(target: Target) -> AsyncIterator[asyncssh.SSHClientConnection]:
    """An open connection. Raises UserError for what the user has to settle, Transient for what may
    pass.
    """
    hosts = target.hosts
    if not hosts.is_file():
        raise UserError(await stranger(target, "isn't known"))
    options: dict[str, Any] = {
        "known_hosts": str(hosts),
        "preferred_auth": "publickey",
        "connect_timeout": CONNECT_S,
        "login_timeout": CONNECT_S,
        "keepalive_interval": KEEPALIVE_S,
        "keepalive_count_max": SILENCES,
    }
    options |= {"port": target.port} if target.port else {}
    options |= {"username": target.user} if target.user else {}
    options |= {"client_keys": [str(Path(target.key).expanduser())]} if target.key else {}
    try:
        connection = await asyncssh.connect(target.host, **options)
    except asyncssh.HostKeyNotVerifiable:
        raise UserError(await stranger(target, described(target))) from None
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


def described(target: Target) -> str:
    """What is wrong with a host key that isn't trusted: that there is none to compare with, or that
    it is another.
    """
    try:
        found = asyncssh.read_known_hosts(str(target.hosts)).match(
            target.host, "", target.port or 22
        )
    except (OSError, ValueError):
        return "can't be looked up"
    return "has changed" if found[0] else "isn't known"


async def stranger(target: Target, what: str) -> str:
    """The line for a host whose key isn't trusted, with the key that it shows."""
    shown = ""
    with contextlib.suppress(OSError, asyncssh.Error, asyncio.TimeoutError):
        key = await asyncio.wait_for(
            asyncssh.get_server_host_key(target.host, target.port or 22), CONNECT_S
        )
        shown = f" ({key.get_fingerprint()})" if key else ""
    scan = f"ssh-keyscan -p {target.port or 22} {target.host} >> {target.known_hosts}"
    look = f"compare it with `ssh-keygen -lf {KEY_FILE}` on the board"
    if what == "has changed":
        name = f"[{target.host}]:{target.port}" if target.port not in (None, 22) else target.host
        return (
            f"the host key of {target.name} has changed{shown}, and nothing was sent: somebody "
            f"may be in between, or the board was set up anew; {look}, then `ssh-keygen -R "
            f"'{name}' -f {target.known_hosts}` and `{scan}`"
        )
    return f"the host key of {target.name} {what}{shown}: {look}, then `{scan}`"


def lost(error: BaseException) -> bool:
    """Whether an error means that the connection is gone."""
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
