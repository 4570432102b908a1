"""Decide who may talk to the dashboard: its own pages in the browser of whoever has the token."""

from __future__ import annotations

import ipaddress
import re
import secrets
from typing import Any
from urllib.parse import parse_qs, quote

COOKIE = "sintra"
# Name or address, and port. Nothing else is a host, and nothing else is parsed.
HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[\w.-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
TOKEN = re.compile(r"[\w-]{8,200}", re.ASCII)  # what is safe in an address and in a cookie
NO_TOKEN = "This page needs the token that `doit dashboard` printed: /?token=..."
NOT_OURS = "This address, or the page that asks, is not the dashboard's."
Scope = dict[str, Any]  # of ASGI: the request
Headers = list[tuple[str, str]]  # names in lower case


def is_loopback(host: str) -> bool:
    """Return whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AccessGuard:
    """ASGI middleware in front of everything, websockets included.

    Every request needs the token. On this machine alone, only its own names are answered, so that
    no foreign page can get in by a name that it points here (DNS rebinding).
    """

    def __init__(self, app: Any, token: str, loopback: bool) -> None:
        self.app = app
        self.token = token  # matches TOKEN
        self.loopback = loopback  # whether only this machine's own names are answered

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = [(k.decode("latin-1").lower(), v.decode("latin-1")) for k, v in scope["headers"]]
        host = own_host(headers, self.loopback)
        if host is None:
            await send_forbidden(scope, send, NOT_OURS)
        elif self.is_token(query_token(scope)) and scope["type"] == "http":
            await send_cookie(send, scope["path"], cookie_name(host), self.token)
        elif any(map(self.is_token, (query_token(scope), cookie(headers, cookie_name(host))))):
            await self.app(scope, receive, send)
        else:
            await send_forbidden(scope, send, NO_TOKEN)

    def is_token(self, text: str) -> bool:
        """Return whether a text is the token, in a time that doesn't depend on it."""
        return secrets.compare_digest(text.encode(), self.token.encode())


def own_host(headers: Headers, loopback: bool) -> re.Match[str] | None:
    """Return the Host of a request that comes from a page of ours; None for any other.

    loopback: whether only this machine's own names count.
    """
    hosts = [value for name, value in headers if name == "host"]
    origins = [value for name, value in headers if name == "origin"]
    host = HOST.fullmatch(hosts[0]) if len(hosts) == 1 else None
    if host is None or (loopback and not is_loopback(host["name"].strip("[]").lower())):
        return None
    own = (f"http://{hosts[0]}", f"https://{hosts[0]}")
    return host if len(origins) <= 1 and all(origin in own for origin in origins) else None


def cookie_name(host: re.Match[str]) -> str:
    """Return the cookie's name: browsers share cookies among a machine's ports."""
    return f"{COOKIE}-{host['port'] or 80}"


def cookie(headers: Headers, name: str) -> str:
    """Return a cookie's value, or ""."""
    lines = (value for key, value in headers if key == "cookie")
    pairs = (pair.partition("=") for line in lines for pair in line.split(";"))
    return next((value.strip() for key, _, value in pairs if key.strip() == name), "")


def query_token(scope: Scope) -> str:
    """Return the token in a request's address, or ""."""
    query: str = scope["query_string"].decode("latin-1")
    return parse_qs(query).get("token", [""])[0]


async def send_cookie(send: Any, path: str, name: str, token: str) -> None:
    """Store the token in a cookie, and redirect to the address without it."""
    # Quoted, and never "//" or "/\\": the browser would go to another host.
    location = "/" + quote(path.lstrip("/\\"), errors="replace")
    headers = [
        (b"location", location.encode()),
        (b"set-cookie", f"{name}={token}; HttpOnly; SameSite=Strict; Path=/".encode()),
        (b"referrer-policy", b"no-referrer"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def send_forbidden(scope: Scope, send: Any, words: str) -> None:
    """Answer with 403, or close a websocket."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": words.encode()})
