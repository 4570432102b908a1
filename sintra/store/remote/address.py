"""Where the shared store is, checked before anything is opened. No network here, and no obstore."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

from sintra.core.errors import UserError, nearest

BUCKETS = ("s3", "gs", "az")
MODES = ("readwrite", "readonly")
KEY = "SINTRA_STORE_KEY"
SHORTEST = 16


class StoreOptions(Protocol):
    """The options of a shared store, as the configuration has them."""

    @property
    def remote(self) -> str:
        """Return a bucket or folder; "" for none."""
        ...

    @property
    def mode(self) -> str:
        """Return readwrite or readonly."""
        ...


@dataclass(frozen=True)
class Address:
    """A bucket with a prefix (s3://, gs://, az://) or a folder (file://); whether it is written to."""

    url: str
    writable: bool

    @property
    def folder(self) -> Path | None:
        """The folder, where it is one."""
        return Path(self.url.removeprefix("file://")) if self.url.startswith("file://") else None


def address(root: Path, conf: StoreOptions) -> Address | None:
    """From the options `store.*`; None where no shared store is named. Raises UserError."""
    remote, mode = conf.remote, conf.mode
    if mode not in MODES:
        raise UserError(f"store.mode={mode!r}: {nearest(mode, MODES)}")
    if not remote:
        return None
    scheme = remote.partition("://")[0] if "://" in remote else ""
    if not scheme or scheme == "file":
        return Address(
            "file://" + str((root / Path(remote.removeprefix("file://")).expanduser()).absolute()),
            mode != "readonly",
        )
    if scheme not in BUCKETS:
        raise UserError(
            f"store.remote={scheme}://...: {nearest(scheme, (*BUCKETS, 'file'))}, or the path of "
            "a folder"
        )
    parts = urlsplit(remote)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "store.remote holds more than bucket and prefix: credentials come from the environment"
        )
    if not re.fullmatch(r"[\w.-]+", parts.netloc) or ".." in parts.path.split("/"):
        raise UserError(f"store.remote={remote!r}: wanted is {scheme}://bucket/prefix")
    return Address(remote.rstrip("/"), mode != "readonly")


def secret() -> bytes | None:
    """The key of the entries' HMAC, from the environment. Raises UserError."""
    given = os.environ.get(KEY, "").encode()
    if given and len(given) < SHORTEST:
        raise UserError(f"{KEY} has fewer than {SHORTEST} bytes: anybody could find it out")
    return given or None
