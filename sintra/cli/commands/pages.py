"""The commands that leave a page beside a study's result: `ab`, `surgery` and `report`."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from sintra.build.run_state import say
from sintra.build.step import Step
from sintra.config.quoting import user_path
from sintra.config.ranges import count_of
from sintra.config.tasks.jsonl import read_lines, read_objects
from sintra.core.artifact import Source
from sintra.core.errors import UserError, nearest
from sintra.core.recipe import variant_slug
from sintra.core.stage import Params
from sintra.core.text import printable_text
from sintra.results.finished import FinishedStudy, open_finished
from sintra.results.pages import ab_page, surgery
from sintra.results.pages.report import write_report as write_report_page
from sintra.results.pages.tensor_map import read_tensor_map
from sintra.store.files import write_atomic
from sintra.study.pinning import pin_file

AB_OPTIONS = {"study", "file", "prompt", "prompts", "tokens", "chat"}
STUDY_ONLY = {"study"}
DEFAULT_PROMPTS, DEFAULT_TOKENS = 5, 64
PROMPT_CHARACTERS = 600  # of a document, at most


def read_options(overrides: list[str], allowed: set[str], command: str) -> dict[str, str]:
    """Return a page command's own KEY=VALUE options. Raises UserError with the nearest name."""
    options: dict[str, str] = {}
    for item in overrides:
        key, _, value = item.partition("=")
        if key not in allowed:
            raise UserError(f"`doit {command}` has no option {key!r}: {nearest(key, allowed)}")
        if key in options:
            raise UserError(f"{key!r} is given twice")
        options[key] = value
    return options


@dataclass(frozen=True)
class AbOptions:
    """What `doit ab` is asked to compare."""

    study: str  # a folder in outputs/
    file: Path | None  # a GGUF to compare instead of the study's winner
    prompts: list[str]  # empty: openings of the study's report text
    tokens: int  # of each answer
    chat: bool  # whether prompts go through the model's chat template

    @classmethod
    def of(cls, root: Path, overrides: list[str]) -> AbOptions:
        """Read the command's options. Raises UserError."""
        options = read_options(overrides, AB_OPTIONS, "ab")
        tokens = positive_number(options.get("tokens", str(DEFAULT_TOKENS)))
        prompts = read_prompts(root, options)
        file = root / user_path(options["file"]) if "file" in options else None
        if file and not file.is_file():
            raise UserError(f"there is no file {options['file']!r} to compare")
        chat = options.get("chat", "false")
        if chat not in ("true", "false"):
            raise UserError(f"chat={chat} is neither true nor false")
        return cls(options.get("study", "latest"), file, prompts, tokens, chat == "true")


def compare_answers(root: Path, overrides: list[str]) -> None:
    """Print both models' answers to the same prompts and write them to outputs/<study>/ab.html.

    Raises UserError.
    """
    options = AbOptions.of(root, overrides)
    study = open_finished(root, options.study)
    answers = study.store.read_json(study.build_artifact(ab_step(study, options), say), "ab.json")
    name = options.file.name if options.file else study.variant
    model = study.workspace.study.model
    columns = shutil.get_terminal_size((100, 24)).columns
    print(printable_text(ab_page.format_comparison(answers, columns)))  # models wrote it
    write_atomic(
        study.folder / "ab.html",
        ab_page.render_comparison(answers, model, f"{model} in 16 bits", name),
    )
    print(f"page: outputs/{study.folder.name}/ab.html")


def positive_number(text: str) -> int:
    """Return a number of tokens, 1 or more. Raises UserError."""
    if (tokens := count_of(text)) is None:
        raise UserError(f"tokens={text} is not a number of tokens: 64 is the default")
    return tokens


def read_prompts(root: Path, options: dict[str, str]) -> list[str]:
    """Return the prompt of prompt=..., or the lines of prompts=FILE; without either an empty list.

    A line of a .jsonl file is {"prompt": ...}. Raises UserError.
    """
    if "prompt" in options and "prompts" in options:
        raise UserError("give either prompt=... or prompts=FILE")
    if "prompt" in options:
        if not options["prompt"].strip():
            raise UserError("prompt= is empty")
        return [options["prompt"]]
    if "prompts" not in options:
        return []
    path = root / user_path(options["prompts"])
    if not path.is_file():
        raise UserError(f"there is no file {options['prompts']!r} with prompts")
    if path.suffix == ".jsonl":
        rows = list(read_objects(path))
        if wrong := [n for n, row in rows if not isinstance(row.get("prompt"), str)]:
            raise UserError(
                f'{path.name}, line {wrong[0]}: every line needs the form {{"prompt": "..."}}'
            )
        lines = [row["prompt"] for _, row in rows]
    else:
        lines = [line for line in read_lines(path) if line.strip()]
    if not lines:
        raise UserError(f"{path.name} has no prompts")
    return lines


def text_openings(study: FinishedStudy) -> list[str]:
    """Return the first halves of the first documents of the study's report text.

    Where the model wrote that text itself, the second text stands in for it: its documents are of
    people. No calibration text is among them. Raises UserError where there is neither.
    """
    texts = study.graph.texts
    role = next((r for r in ("report", "second") if r in texts and texts[r].kind == "file"), None)
    if role is None:
        raise UserError(
            "none of the study's texts is a file of prose: give prompt=... or prompts=FILE"
        )
    text = Path(texts[role].locator).read_text()
    documents = [d.strip() for d in text.split("\n\n") if d.strip()][:DEFAULT_PROMPTS]
    return [d[: len(d) // 2].rsplit(" ", 1)[0][:PROMPT_CHARACTERS] for d in documents]


def ab_step(study: FinishedStudy, options: AbOptions) -> Step:
    """Return the comparison as a step, so that asking the same again costs nothing."""
    graph, recipe, file = study.graph, study.recipe, options.file
    prompts = options.prompts or text_openings(study)
    params: Params = {"prompts": prompts, "tokens": options.tokens, "chat": options.chat}
    if file is None:
        params |= {} if recipe.kv == "f16" else {"kv": recipe.kv}
        variant = graph.quantize(recipe)
    else:
        pin: Source = pin_file(file, study.workspace.digests)
        variant = Step(
            "fetch",
            file.name,
            {"kind": pin.kind, "digest": pin.digest},
            hints={"from": pin.locator},
        )
    label = f"{study.workspace.study.model}-{variant_slug(recipe) if file is None else file.name}"
    return Step("ab", label, params, {"original": graph.convert(), "variant": variant})


def draw_tensors(root: Path, overrides: list[str]) -> None:
    """Draw the model's tensors beside a stock preset: outputs/<study>/surgery.html.

    Raises UserError.
    """
    options = read_options(overrides, STUDY_ONLY, "surgery")
    study = open_finished(root, options.get("study", "latest"))
    tensors = read_tensor_map(study, say)
    write_atomic(study.folder / "surgery.html", surgery.render_tensor_map(tensors))
    print(printable_text(surgery.format_tensor_map(tensors)))
    print(f"page: outputs/{study.folder.name}/surgery.html")


def write_report(root: Path, overrides: list[str], studies: list[str]) -> None:
    """Write a study's report again: outputs/<study>/report.html. Raises UserError."""
    named = [*(f"study={study}" for study in studies), *overrides]
    options = read_options(named, STUDY_ONLY, "report")
    path = write_report_page(root, options.get("study", "latest"))
    print(f"page: outputs/{path.parent.name}/report.html, {path.stat().st_size / 1e3:.0f} kB")
