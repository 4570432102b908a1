"""The commands that leave a page beside a study's result: `ab`, `surgery` and `report`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from sintra.build.console import say
from sintra.build.step import Step
from sintra.core.errors import UserError, nearest
from sintra.core.types import Source
from sintra.results.finished import FinishedStudy, open_finished
from sintra.store.files import write_atomic
from sintra.study.pinning import pin_file

AB = {"study", "file", "prompt", "prompts", "tokens", "chat"}
SURGERY = REPORT = {"study"}
DEFAULT_PROMPTS, DEFAULT_TOKENS = 5, 64


def options(raw: list[str], known: set[str], command: str) -> dict[str, str]:
    """A page command's own key=value options. Raises UserError with the nearest name."""
    found: dict[str, str] = {}
    for item in raw:
        key, _, value = item.partition("=")
        if key not in known:
            raise UserError(f"`doit {command}` has no option {key!r}: {nearest(key, known)}")
        if key in found:
            raise UserError(f"{key!r} is given twice")
        found[key] = value
    return found


def ab(root: Path, raw: list[str]) -> None:
    """Both models' answers to the same prompts, in the terminal and as outputs/<study>/ab.html."""
    from sintra.results.pages import ab as view

    given = options(raw, AB, "ab")
    tokens = number(given.get("tokens", str(DEFAULT_TOKENS)))
    prompts = asked(root, given)
    file = root / Path(given["file"]).expanduser() if "file" in given else None
    if file and not file.is_file():
        raise UserError(f"there is no file {given['file']!r} to compare")
    if given.get("chat", "false") not in ("true", "false"):
        raise UserError(f"chat={given['chat']} is neither true nor false")
    done = open_finished(root, given.get("study", "latest"))
    step = ab_step(done, file, prompts or openings(done), tokens, given.get("chat") == "true")
    found = done.store.read_json(done.build_artifact(step, say), "ab.json")
    name = file.name if file else done.recipe.name
    print(view.text(found, shutil.get_terminal_size((100, 24)).columns))
    original = f"{done.workspace.study.model} in 16 bits"
    write_atomic(
        done.folder / "ab.html", view.page(found, done.workspace.study.model, original, name)
    )
    print(f"page: outputs/{done.folder.name}/ab.html")


def number(text: str) -> int:
    """A positive whole number."""
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"tokens={text} is no number of tokens: 64 is the default")
    return int(text)


def asked(root: Path, given: dict[str, str]) -> list[str]:
    """The prompts that were given: one by prompt=..., or a file's lines (.jsonl: {"prompt": ...} a
    line). Raises UserError.
    """
    if "prompt" in given and "prompts" in given:
        raise UserError("give either prompt=... or prompts=FILE")
    if "prompt" in given:
        if not given["prompt"].strip():
            raise UserError("prompt= is empty")
        return [given["prompt"]]
    if "prompts" not in given:
        return []
    path = root / Path(given["prompts"]).expanduser()
    if not path.is_file():
        raise UserError(f"there is no file {given['prompts']!r} with prompts")
    lines = [line for line in path.read_text().splitlines() if line.strip()]
    if path.suffix == ".jsonl":
        try:
            lines = [str(json.loads(line)["prompt"]) for line in lines]
        except (ValueError, TypeError, KeyError):
            raise UserError(f'{path.name}: every line needs the form {{"prompt": "..."}}') from None
    if not lines:
        raise UserError(f"{path.name} has no prompts")
    return lines


def openings(done: FinishedStudy) -> list[str]:
    """The first halves of the first documents of the study's report text, which is no calibration
    text.
    """
    text = Path(done.graph.texts["report"].locator).read_text()
    documents = [d.strip() for d in text.split("\n\n") if d.strip()][:DEFAULT_PROMPTS]
    return [d[: len(d) // 2].rsplit(" ", 1)[0][:600] for d in documents]


def ab_step(
    done: FinishedStudy, file: Path | None, prompts: list[str], tokens: int, chat: bool
) -> Step:
    """The comparison as a step: the same prompts again cost nothing."""
    graph, recipe = done.graph, done.recipe
    params: dict[str, Any] = {"prompts": prompts, "tokens": tokens, "chat": chat}
    if file is None:
        params |= {} if recipe.kv == "f16" else {"kv": recipe.kv}
        variant = graph.quantize(recipe)
    else:
        pin: Source = pin_file(file, done.workspace.digests)
        variant = Step(
            "fetch",
            file.name,
            {"kind": pin.kind, "digest": pin.digest},
            hints={"from": pin.locator},
        )
    label = f"{done.workspace.study.model}-{recipe.name if file is None else file.name}"
    return Step("ab", label, params, {"original": graph.convert(), "variant": variant})


def surgery(root: Path, raw: list[str]) -> None:
    """The model as a picture, beside a stock preset: outputs/<study>/surgery.html."""
    from sintra.results.pages import surgery as view
    from sintra.results.pages.tensor_map import anatomy

    done = open_finished(root, options(raw, SURGERY, "surgery").get("study", "latest"))
    found = anatomy(done, say)
    write_atomic(done.folder / "surgery.html", view.page(found))
    print(view.text(found))
    print(f"page: outputs/{done.folder.name}/surgery.html")


def report(root: Path, raw: list[str]) -> None:
    """The study's report, made again: outputs/<study>/report.html."""
    from sintra.results.pages import report_data

    path = report_data.write(root, options(raw, REPORT, "report").get("study", "latest"))
    print(f"page: outputs/{path.parent.name}/report.html, {path.stat().st_size / 1e3:.0f} kB")
