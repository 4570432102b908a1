"""Write the command lines that a report shows: the study again, and what to do with its result."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable
from pathlib import Path

from sintra.core.kv_cache import kv_arguments
from sintra.planning.llm.budget import bare_url
from sintra.results.pages.words import hide_folders
from sintra.results.result import model_file
from sintra.study.json_types import ResultJson


def optimize_command(root: Path, overrides: Iterable[str]) -> str:
    """Return the command that makes a study again, typed in the project's folder; folders elsewhere
    and secrets are left out.
    """
    return shlex.join(["doit", "optimize", *(public_override(root, o) for o in overrides)])


def without_planner(overrides: Iterable[str]) -> list[str]:
    """Return a study's options without those of its planner."""
    return [o for o in overrides if not o.startswith("planner")]


def public_override(root: Path, override: str) -> str:
    """Return an option as others may see it: no password, no folder outside the project."""
    key, _, value = override.partition("=")
    if "://" in value:
        return f"{key}={bare_url(value)}"
    return hide_folders(f"{key}={value}".replace(f"{root.resolve()}/", ""))


def usage_commands(
    result: ResultJson, command: str, planless_command: str
) -> list[tuple[str, str]]:
    """Return what to do with a result, as (words, command).

    command: makes the study again; planless_command: the same without its planner.
    """
    study, winner = result["study"], result["winner"]
    if winner is None:
        return [("Run the study again, with other limits or other hardware", command)]
    folder = f"outputs/{study}"
    path = f"{folder}/{model_file(winner)['path']}"
    gguf = model_file(winner)["path"] == "model.gguf"
    options = _llama_options(winner["recipe"].get("kv", "f16"), result["context"])
    return [
        *(_gguf_commands(study, path, options) if gguf else [_transformers_command(path)]),
        ("Compare its answers with the original's", shlex.join(["doit", "ab", f"study={study}"])),
        (
            "Look at every tensor beside a stock preset",
            shlex.join(["doit", "surgery", f"study={study}"]),
        ),
        ("Make it again: what the cache holds is not built twice", command),
        (
            "Replay the same steps without a planner",
            f"{planless_command} planner=replay "
            + shlex.quote(f"planner.replay={folder}/rounds.json"),
        ),
    ]


def _llama_options(kv: str, context: int) -> list[str]:
    """Return llama.cpp's options for a context in tokens and the type of the KV cache."""
    return ["-c", str(context), *kv_arguments(kv)]


def _gguf_commands(study: str, path: str, options: list[str]) -> list[tuple[str, str]]:
    return [
        ("Run it with llama.cpp", shlex.join(["llama-cli", "-m", path, *options])),
        (
            "Serve it, OpenAI-compatible, on this machine",
            shlex.join(["llama-server", "-m", path, *options]),
        ),
        ("Hand it to Ollama", shlex.join(["doit", "export_ollama", "--study", study])),
        (
            "Copy it to the device (put its address in the place of DEVICE)",
            shlex.join(["scp", path, "DEVICE:"]),
        ),
    ]


def _transformers_command(path: str) -> tuple[str, str]:
    load = f"M.from_pretrained({json.dumps(path)})"
    code = f"from transformers import AutoModelForCausalLM as M; print({load})"
    return "Load it with transformers", shlex.join(["python", "-c", code])
