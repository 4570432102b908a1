"""Decide who may talk to the dashboard: its own pages, and, where it is bound beyond this machine,
who has the token.
"""

from __future__ import annotations

import ipaddress
import secrets
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

COOKIE = "sintra"
Scope = dict[str, Any]  # of ASGI: the request


def is_loopback(host: str) -> bool:
    """Return whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class AccessGuard:
    """ASGI middleware in front of everything, websockets included.

    Without a token only this machine's own names are answered, so that no foreign page can get in
    by a name that it points here (DNS rebinding).
    """

    def __init__(self, app: Any, token: str = "") -> None:
        self.app = app
        self.token = token  # "" where none is asked for

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Pass a request on, or answer it with 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        if not self.is_own_page(headers) or not self.has_token(scope, headers):
            await send_forbidden(
                scope, send, "This page needs the token that `doit dashboard` printed: /?token=..."
            )
        elif self.token and scope["type"] == "http" and "token" in query(scope):
            await send_cookie(send, scope["path"], self.token)
        else:
            await self.app(scope, receive, send)

    def is_own_page(self, headers: dict[str, str]) -> bool:
        """Return whether a request comes from a page of ours, by the Host and Origin headers."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        same_origin = origin is None or urlsplit(origin).netloc == host
        return same_origin and (
            bool(self.token) or is_loopback(urlsplit(f"//{host}").hostname or "")
        )

    def has_token(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Return whether the token came along, in the address or in the cookie."""
        if not self.token:
            return True
        cookies = SimpleCookie(headers.get("cookie", ""))
        tokens = (
            query(scope).get("token", [""])[0],
            cookies[COOKIE].value if COOKIE in cookies else "",
        )
        return any(secrets.compare_digest(t.encode(), self.token.encode()) for t in tokens)


def query(scope: Scope) -> dict[str, list[str]]:
    """Return the parameters of a request's address."""
    return parse_qs(scope["query_string"].decode("latin-1"))


async def send_cookie(send: Any, path: str, token: str) -> None:
    """Store the token in a cookie, and redirect to the address without it."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    location = "/" + path.lstrip("/")  # no "//": the browser would go to another host
    headers = [
        (b"location", location.encode()),
        (b"set-cookie", cookie.encode()),
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
