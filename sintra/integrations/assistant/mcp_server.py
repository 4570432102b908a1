"""An MCP server on stdin and stdout: the answers as tools, by the official package (extra: mcp).

Without `write` there is no tool that starts or stops anything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import anyio
from mcp.server import MCPServer
from mcp.server.mcpserver import Context
from mcp.server.mcpserver.exceptions import ToolError
from mcp.types import ToolAnnotations

from sintra import __version__
from sintra.core.errors import Transient, UserError
from sintra.integrations.assistant import answers
from sintra.integrations.assistant.answers import Answer, Wanted

P = ParamSpec("P")
INSTRUCTIONS = (
    "Sintra makes compressed variants of a language model for a device and measures them. Ask "
    "`devices` and `estimate` first: they build nothing. `plan` says what a study would take. A "
    "study runs for minutes to days: `optimize` starts it and returns at once, `progress` follows "
    "it, `result` has its numbers. Every number says whether it was measured or estimated."
)
LONGEST_WAIT_S = 600
POLL_S = 1.0


def anticipated(function: Callable[P, Answer]) -> Callable[P, Answer]:
    """Return a function whose one-line errors reach the assistant; others stay in the log."""

    @wraps(function)
    def answer(*args: P.args, **kwargs: P.kwargs) -> Answer:
        try:
            return function(*args, **kwargs)
        except (UserError, Transient) as error:
            raise ToolError(str(error)) from None

    return answer


class ReadingTools:
    """The tools that change nothing. Their docstrings are what the assistant reads."""

    def __init__(self, root: Path) -> None:
        self.root = root  # the project's folder

    def devices(self) -> dict[str, Any]:
        """List the device profiles: name, memory (GiB), bandwidth (GB/s), cores."""
        return answers.devices(self.root)

    def estimate(self, model: str, hardware: str = "", type: str = "Q4_K_M") -> dict[str, Any]:
        """Estimate tokens/s and memory of a model on a device, for each type, without building.

        model: a name in conf/model, a folder, a GGUF, or owner/name on the hub (then its
        config.json is downloaded). hardware: a device's name, or "" for every device with one type.
        """
        return answers.estimate(self.root, model, hardware, type)

    def plan(
        self,
        model: str,
        hardware: str,
        goal: str = "balanced",
        planner: str = "solver",
        probe: str = "standard",
        options: list[str] | None = None,
    ) -> dict[str, Any]:
        """Dry run of a study: which steps it would build, with times where they are known.

        goal: balanced, small, fast or quality; planner: solver, or ladder (stock presets); probe:
        standard, or quick for a first look; options: KEY=VALUE, such as goal.max_kld=0.02.
        """
        wanted = Wanted(model, hardware, goal, planner, probe, tuple(options or ()))
        return answers.plan(self.root, wanted)

    def studies(self) -> dict[str, Any]:
        """List every study of this project with its state and its winner's numbers."""
        return answers.studies(self.root)

    def result(self, study: str = "latest") -> dict[str, Any]:
        """Show what a study came to: goal, winner with all measurements, best candidates."""
        return answers.result(self.root, study)

    def compare(self, studies: list[str] | None = None) -> dict[str, Any]:
        """Show the winners of studies side by side: size, KLD with its error, speed, memory."""
        return answers.compare(self.root, studies or [])

    def why(self, study: str, step: str) -> dict[str, Any]:
        """Explain why a step of a study is up to date, or which part of its key has changed."""
        return answers.why(self.root, study, step)

    def explain(self, file: str) -> dict[str, Any]:
        """Describe a GGUF: tensor types, sizes, bits per weight, metadata, chat template."""
        return answers.explain(self.root, file)


class WritingTools:
    """The tools that start and stop studies."""

    def __init__(self, root: Path) -> None:
        self.root = root  # the project's folder

    def optimize(
        self,
        model: str,
        hardware: str,
        goal: str = "balanced",
        planner: str = "solver",
        probe: str = "standard",
        options: list[str] | None = None,
    ) -> dict[str, Any]:
        """Start a study, or resume it, and return its name at once. Follow it with `progress`.

        It goes on when this server ends. The arguments are those of `plan`.
        """
        wanted = Wanted(model, hardware, goal, planner, probe, tuple(options or ()))
        return answers.start(self.root, wanted)

    def stop(self, study: str) -> dict[str, Any]:
        """Stop a running study; what is finished is kept, and `optimize` goes on from there."""
        return answers.stop(self.root, study)


def follow(root: Path) -> Callable[..., Any]:
    """Return the tool `progress`, which can wait and report meanwhile."""

    async def progress(study: str, ctx: Context, wait_s: float = 0) -> dict[str, Any]:
        """Say how far a study is; with wait_s (up to 600) wait for its end so long, reporting."""
        end = time.monotonic() + min(max(wait_s, 0), LONGEST_WAIT_S)
        ask = anticipated(answers.progress)
        found = await anyio.to_thread.run_sync(ask, root, study)
        while found["state"] == "running" and time.monotonic() < end:
            if found["total"]:
                message = f"round {found['round']}: {', '.join(found['building']) or 'planning'}"
                await ctx.report_progress(found["done"], found["total"], message)
            await anyio.sleep(POLL_S)
            found = await anyio.to_thread.run_sync(ask, root, study)
        return found

    return progress


def make_server(root: Path, write: bool) -> MCPServer[Any]:
    """Return the server of a project. write: whether studies can be started and stopped."""
    server: MCPServer[Any] = MCPServer(
        "sintra", version=__version__, instructions=INSTRUCTIONS, log_level="WARNING"
    )
    add_tools(server, ReadingTools(root), read_only=True)
    server.add_tool(follow(root), annotations=ToolAnnotations(read_only_hint=True))
    if write:
        add_tools(server, WritingTools(root), read_only=False)
    return server


def add_tools(server: MCPServer[Any], tools: object, read_only: bool) -> None:
    """Add every public method of an object as a tool."""
    for name in (n for n in vars(type(tools)) if not n.startswith("_")):
        hints = ToolAnnotations(
            read_only_hint=read_only, destructive_hint=False, open_world_hint=name == "estimate"
        )
        server.add_tool(anticipated(getattr(tools, name)), name=name, annotations=hints)


def serve(root: Path, write: bool) -> None:
    """Serve on stdin and stdout until the client goes."""
    make_server(root, write).run("stdio")
