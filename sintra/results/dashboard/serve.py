"""Serve `doit dashboard` by NiceGUI (extra `dashboard`)."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import traceback
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.results.dashboard.access import TOKEN, AccessGuard, is_loopback
from sintra.study.workspace import cache_root

TOKEN_VARIABLE = "SINTRA_DASHBOARD_TOKEN"
REPORT_POLICY = (  # Content-Security-Policy of a report
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; "
    "frame-ancestors 'none'"
)


def serve(root: Path, host: str, port: int) -> None:
    """Serve until Ctrl-C, to whoever has the token of the printed address.

    port: 0 stands for any free one. Raises UserError where the extra is missing, the port is taken
    or the environment's token can't be used.
    """
    os.environ.setdefault("NICEGUI_STORAGE_PATH", str(cache_root(root, []) / "meta" / "nicegui"))
    try:
        from nicegui import app, ui  # an optional package
    except ImportError:
        raise UserError(
            "the dashboard needs its extra: pip install -c constraints.txt -e '.[dashboard]'"
        ) from None
    token, port = choose_token(), free_port(host, port)
    register_pages(root, app, ui)
    app.add_middleware(AccessGuard, token=token, loopback=is_loopback(host))
    name = f"[{host}]" if ":" in host else host
    address = f"http://{name}:{port}/?token={token}"
    print(f"dashboard: {address}  (Ctrl-C ends it; studies go on)", flush=True)
    with contextlib.suppress(KeyboardInterrupt):
        ui.run(
            host=host,
            port=port,
            show=False,
            reload=False,
            title="Sintra",
            dark=None,
            language="en-US",
            tailwind=False,
            favicon="\u25c6",
            show_welcome_message=False,
        )


def register_pages(root: Path, app: Any, ui: Any) -> None:
    """Register every page, and the reports as the files that they are."""
    from starlette.responses import FileResponse, PlainTextResponse, Response  # comes with NiceGUI

    from sintra.results.dashboard import views  # imports NiceGUI
    from sintra.results.dashboard.studies import Studies  # not on the no-op path

    studies = Studies(root)
    for path, make_page in views.page_routes(studies).items():
        ui.page(path)(make_page)

    @ui.page("/study/{name}")  # type: ignore[untyped-decorator]
    def study(name: str) -> None:
        views.study_page(studies, name)

    @app.exception_handler(Exception)  # type: ignore[untyped-decorator]
    async def internal_error(request: Any, error: Exception) -> Response:
        traceback.print_exception(error)
        return PlainTextResponse("This page could not be made; the terminal says why.", 500)

    @app.get("/report/{name}")  # type: ignore[untyped-decorator]
    def report(name: str) -> Response:
        if not studies.has_study(name) or not studies.has_report(name):
            return PlainTextResponse("There is no such report.", 404)
        return FileResponse(
            root / "outputs" / name / "report.html",
            headers={"Content-Security-Policy": REPORT_POLICY},
        )


def choose_token() -> str:
    """Return the environment's token, or a new one of 192 random bits. Raises UserError."""
    token = os.environ.get(TOKEN_VARIABLE) or secrets.token_urlsafe(24)
    if not TOKEN.fullmatch(token):
        raise UserError(
            f"{TOKEN_VARIABLE} must be 8 to 200 letters, digits, - or _: leave it out, and the "
            "dashboard draws one"
        )
    return token


def free_port(host: str, port: int) -> int:
    """Return the port, or a free one for 0. Raises UserError where it can't be listened on."""
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port} is not a number from 0 to 65535")
    try:
        with socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET
        ) as server:
            return int(server.getsockname()[1])
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"the dashboard can't listen on {host}:{port} ({reason}): choose another with --port "
            "or --host"
        ) from None
