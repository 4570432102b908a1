"""`sintra mcp`: this project for an assistant, over stdin and stdout (extra: mcp)."""

from __future__ import annotations

from pathlib import Path

from sintra.core.errors import UserError


def serve_assistant(root: Path, write: bool) -> None:
    """Serve until the client goes. Raises UserError where the extra is missing."""
    try:
        from sintra.integrations.assistant.mcp_server import serve  # an optional package
    except ImportError as error:
        if not (error.name or "").startswith("mcp"):
            raise
        raise UserError(
            "the MCP server needs its extra: pip install -c constraints.txt -e '.[mcp]'"
        ) from None
    serve(root.resolve(), write)
