"""Who may talk to the dashboard: pages of its own, and, where it is bound beyond this machine, who
has the token.
"""

from __future__ import annotations

import ipaddress
import secrets
from http.cookies import SimpleCookie
from typing import Any
from urllib.parse import parse_qs, urlsplit

COOKIE = "sintra"
Scope = dict[str, Any]


def loopback(host: str) -> bool:
    """Whether an address is this machine's own."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """ASGI in front of everything, websockets included. token "": none is asked for, and only this
    machine's own names are answered, so that no foreign page can get in by a name that it points
    here (DNS rebinding).
    """

    def __init__(self, app: Any, token: str = "") -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Let through, or 403."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {k.decode("latin-1").lower(): v.decode("latin-1") for k, v in scope["headers"]}
        if not self.allowed(headers) or not self.knows(scope, headers):
            await refuse(
                scope, send, "This page needs the token that `doit dashboard` printed: /?token=..."
            )
        elif (
            self.token
            and scope["type"] == "http"
            and "token" in parse_qs(scope["query_string"].decode("latin-1"))
        ):
            await welcome(send, scope["path"], self.token)
        else:
            await self.app(scope, receive, send)

    def allowed(self, headers: dict[str, str]) -> bool:
        """Whether the request comes from a page of ours, by the names it was asked under."""
        host = headers.get("host", "")
        origin = headers.get("origin")
        own = origin is None or urlsplit(origin).netloc == host
        return own and (bool(self.token) or loopback(urlsplit(f"//{host}").hostname or ""))

    def knows(self, scope: Scope, headers: dict[str, str]) -> bool:
        """Whether the token came along, in the address or in the cookie."""
        if not self.token:
            return True
        jar = SimpleCookie(headers.get("cookie", ""))
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        kept = jar[COOKIE].value if COOKIE in jar else ""
        return any(secrets.compare_digest(t.encode(), self.token.encode()) for t in (given, kept))


async def welcome(send: Any, path: str, token: str) -> None:
    """Keep the token in a cookie, and take it out of the address."""
    cookie = f"{COOKIE}={token}; HttpOnly; SameSite=Strict; Path=/"
    safe = "/" + path.lstrip("/")
    headers = [
        (b"location", safe.encode()),
        (b"set-cookie", cookie.encode()),
        (b"referrer-policy", b"no-referrer"),
    ]
    await send({"type": "http.response.start", "status": 303, "headers": headers})
    await send({"type": "http.response.body", "body": b""})


async def refuse(scope: Scope, send: Any, words: str) -> None:
    """403, or a websocket closed."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await send(
        {
            "type": "http.response.start",
            "status": 403,
            "headers": [(b"content-type", b"text/plain; charset=utf-8")],
        }
    )
    await send({"type": "http.response.body", "body": words.encode()})
