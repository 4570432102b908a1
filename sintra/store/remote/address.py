"""Say where the shared store is, checked before anything is opened: no network, no obstore."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from sintra.core.errors import UserError, nearest

BUCKETS = ("s3", "gs", "az")  # schemes of the clouds
MODES = ("readwrite", "readonly")  # values of the option store.mode
KEY_VARIABLE = "SINTRA_STORE_KEY"
SHORTEST_KEY = 16  # bytes


@dataclass(frozen=True)
class Address:
    """Where a shared store is, and what may be done there."""

    url: str  # a bucket with a prefix (s3://, gs://, az://) or a folder (file://)
    writable: bool  # whether results are pushed

    @property
    def folder(self) -> Path | None:
        """Return the folder; None for a bucket."""
        return Path(self.url.removeprefix("file://")) if self.url.startswith("file://") else None


def parse_address(root: Path, remote: str, mode: str) -> Address | None:
    """Return the address that the options `store.remote` and `store.mode` name.

    Return None where no shared store is named. Raises UserError. root: what a relative path starts
    from.
    """
    if mode not in MODES:
        raise UserError(f"store.mode={mode!r}: {nearest(mode, MODES)}")
    if not remote:
        return None
    scheme = remote.partition("://")[0] if "://" in remote else ""
    writable = mode != "readonly"
    if not scheme or scheme == "file":
        folder = root / Path(remote.removeprefix("file://")).expanduser()
        return Address(f"file://{folder.absolute()}", writable)
    if scheme not in BUCKETS:
        raise UserError(
            f"store.remote={scheme}://...: {nearest(scheme, (*BUCKETS, 'file'))}, or the path of "
            "a folder"
        )
    _check_bucket(remote, scheme)
    return Address(remote.rstrip("/"), writable)


def _check_bucket(remote: str, scheme: str) -> None:
    """Raise UserError unless an address is a bucket and a prefix, and no more."""
    parts = urlsplit(remote)
    if "@" in parts.netloc or parts.query or parts.fragment:
        raise UserError(
            "store.remote holds more than bucket and prefix: credentials come from the environment"
        )
    if not re.fullmatch(r"[\w.-]+", parts.netloc) or ".." in parts.path.split("/"):
        raise UserError(f"store.remote={remote!r}: expected {scheme}://bucket/prefix")


def read_hmac_key() -> bytes | None:
    """Return the key of the entries' HMAC from the environment; None where there is none.

    Raises UserError where it is too short.
    """
    key = os.environ.get(KEY_VARIABLE, "").encode()
    if key and len(key) < SHORTEST_KEY:
        raise UserError(
            f"{KEY_VARIABLE} has fewer than {SHORTEST_KEY} bytes: anybody could find it out"
        )
    return key or None
