"""The A/B box's other side: what the two models are, and their words as they come."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.core.stage import cores
from sintra.core.types import Artifact
from sintra.results.dashboard.studies import Studies
from sintra.results.pages.words import discreet

MOST_TOKENS, MOST_LETTERS, LIMIT_S = 512, 8000, 600
Row = dict[str, Any]


def order(studies: Studies, name: str, prompt: str, tokens: int, chat: bool) -> Row:
    """What sintra.results.dashboard.ab_process is told. Raises UserError."""
    if not prompt.strip():
        raise UserError("write a prompt first")
    if len(prompt) > MOST_LETTERS or not 1 <= tokens <= MOST_TOKENS:
        raise UserError(
            f"at most {MOST_LETTERS} letters of prompt and {MOST_TOKENS} tokens of answer"
        )
    result, progress = studies.result(name), studies.opened(name)
    if not result or not result["winner"] or not progress:
        raise UserError("this study has no result to talk to, or its cache is gone")
    recipe = Recipe.of(result["winner"]["recipe"])
    if recipe.format != "gguf":
        raise UserError("the box talks to GGUFs; this result is a checkpoint for transformers")
    store = progress.workspace.store
    paths = []
    for step in (progress.graph.convert(), progress.graph.quantize(recipe)):
        made = step.outcome(store)
        if not isinstance(made, Artifact):
            raise UserError("the cache no longer holds both models: run the study again")
        paths.append(str(store.blob_path(made.model.sha256)))
    return {
        "paths": paths,
        "prompt": prompt,
        "tokens": tokens,
        "chat": chat,
        "threads": cores(),
        "kv": recipe.kv,
        "lock": str(store.folder("lock") / "machine"),
    }


async def talk(given: Row, folder: Path) -> AsyncIterator[Row]:
    """The answers as they come; the process is gone when this ends, however it ends."""
    path = folder / f"{os.getpid()}.{id(given)}.json"
    path.write_text(json.dumps(given))
    threads = {"OMP_NUM_THREADS": str(given["threads"])}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sintra.results.dashboard.ab_process",
        str(path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, **threads},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            async for line in process.stdout:
                row = json.loads(line)
                yield {"error": discreet(row["error"])} if "error" in row else row
            if await process.wait() not in (0, 2):
                yield {"error": "the models could not be run (out of memory?)"}
    except TimeoutError:
        yield {"error": f"stopped after {LIMIT_S} s"}
    finally:
        path.unlink(missing_ok=True)
        if process.returncode is None:
            process.kill()
            await process.wait()
