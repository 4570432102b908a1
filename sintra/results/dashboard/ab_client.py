"""Start the A/B box's process, and pass on what the two models answer."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

from sintra.core.artifact import Artifact
from sintra.core.errors import UserError
from sintra.core.recipe import Recipe
from sintra.core.stage import cores
from sintra.results.dashboard.ab_process import AbEvent, AbOrder
from sintra.results.dashboard.studies import Studies
from sintra.results.pages.words import hide_folders

MAX_TOKENS, MAX_LETTERS = 512, 8000  # of an answer, of a prompt
LIMIT_S = 600  # for both answers


def ab_order(studies: Studies, name: str, prompt: str, tokens: int, chat: bool) -> AbOrder:
    """Return the order for a study's two models.

    Raises UserError where the prompt is unusable or the study has no two GGUFs.
    """
    if not prompt.strip():
        raise UserError("write a prompt first")
    if len(prompt) > MAX_LETTERS or not 1 <= tokens <= MAX_TOKENS:
        raise UserError(
            f"at most {MAX_LETTERS} letters of prompt and {MAX_TOKENS} tokens of answer"
        )
    result, progress = studies.read_result(name), studies.open_progress(name)
    if not result or not result["winner"] or not progress:
        raise UserError("this study has no result to talk to, or its cache is gone")
    recipe = Recipe.of(result["winner"]["recipe"])
    if recipe.format != "gguf":
        raise UserError("the box talks to GGUFs; this result is a checkpoint for transformers")
    store = progress.workspace.store
    paths = []
    for step in (progress.graph.convert(), progress.graph.quantize(recipe)):
        outcome = step.outcome(store)
        if not isinstance(outcome, Artifact):
            raise UserError("the cache no longer holds both models: run the study again")
        paths.append(str(store.blob_path(outcome.model.sha256)))
    return {
        "paths": paths,
        "prompt": prompt,
        "tokens": tokens,
        "chat": chat,
        "threads": cores(),
        "kv": recipe.kv,
        "lock": str(store.folder("lock") / "machine"),
    }


async def stream_answers(order: AbOrder, folder: Path) -> AsyncIterator[AbEvent]:
    """Yield the answers as they come; the process is gone when this ends, however it ends.

    folder: for the order's file.
    """
    path = folder / f"{os.getpid()}.{id(order)}.json"
    path.write_text(json.dumps(order))
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sintra.results.dashboard.ab_process",
        str(path),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": str(order["threads"])},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            async for line in process.stdout:
                event = json.loads(line)
                yield {"error": hide_folders(event["error"])} if "error" in event else event
            if await process.wait() not in (0, 2):
                yield {"error": "the models could not be run (out of memory?)"}
    except TimeoutError:
        yield {"error": f"stopped after {LIMIT_S} s"}
    finally:
        path.unlink(missing_ok=True)
        if process.returncode is None:
            process.kill()
            await process.wait()
