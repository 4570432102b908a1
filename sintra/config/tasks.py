"""What `probe.tasks` may name: a bundled task, a YAML file of the user's, or a task of lm-eval's
own.

A user's file is ten lines: `kind` (choice, answer, summary, code), `data` (a JSONL file beside it),
and how a row becomes a prompt and an answer, each a column's name or a Jinja template. A file that
has `task:` is lm-eval's own format
(https://github.com/EleutherAI/lm-evaluation-harness/blob/main/docs/task_guide.md), with JSONL data
and without code.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from sintra.core.errors import UserError, nearest
from sintra.core.types import Artifact, Source

NEEDED = {
    "choice": ("choices", "answer"),
    "answer": ("answer",),
    "summary": ("answer",),
    "code": ("tests",),
}
KEYS = {"kind", "data", "prompt", "choices", "answer", "tests", "stop", "max_tokens"}
TEMPLATES = ("prompt", "choices", "answer", "tests")
FILE = "task.yaml"


def name_of(given: str) -> str:
    """A task's name in metrics: a file's stem, or the name itself."""
    stem = Path(given).stem if _is_path(given) else given
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem)


def _is_path(given: str) -> bool:
    return given.endswith((".yaml", ".yml")) or "/" in given


def locate(root: Path, given: str) -> Path | None:
    """The file of a task, or None for one of lm-eval's own. Raises UserError for a file that isn't
    there.
    """
    bundled = root / "models" / "tasks" / f"{given}.yaml"
    if not _is_path(given):
        return bundled if bundled.is_file() else None
    path = root / Path(given).expanduser()
    if not path.is_file():
        raise UserError(f"there is no task file {given!r} (probe.tasks)")
    return path


def sources(
    root: Path, given: tuple[str, ...], digests: Any, run_code: bool = False
) -> dict[str, Source | None]:
    """Name -> pin of every task, read and checked; None for lm-eval's own. Raises UserError in one
    line.
    """
    found: dict[str, Source | None] = {}
    for item in given:
        name, path = name_of(item), locate(root, item)
        if name in found:
            raise UserError(
                f"probe.tasks has two tasks called {name!r}: a file's name is the task's"
            )
        found[name] = pin(path, digests, run_code) if path else None
    return found


def pin(path: Path, digests: Any, run_code: bool) -> Source:
    """A task's files by their content."""
    if read(path).get("kind") == "code" and not run_code:
        raise UserError(
            f"{path} runs what the model writes: say probe.run_code=true to allow it "
            "(docs/guide.md, Tasks)"
        )
    from sintra.core.types import File

    tree = Artifact(tuple(File(name, *digests.file(file)) for name, file in files(path).items()))
    return Source("task", tree.digest, str(path.resolve()))


def files(path: Path) -> dict[str, Path]:
    """Every file of a task by its name in the artifact: the YAML and its data."""
    named = [FILE, *(Path(d).name for d in data_of(read(path)))]
    if len(set(named)) < len(named):
        raise UserError(f"{path}: data files need different names")
    return dict(zip(named, [path, *(data_file(path, d) for d in data_of(read(path)))], strict=True))


def data_of(given: dict[str, Any]) -> list[str]:
    """The data files that a task names, in order."""
    return [file for part in splits(given).values() for file in part]


def splits(given: dict[str, Any]) -> dict[str, list[str]]:
    """Split -> data files; nothing for lm-eval's format with data of its own."""
    if "kind" in given:
        return {"test": [given["data"]]}
    more = given.get("dataset_kwargs")
    held = more.get("data_files") if isinstance(more, dict) else None
    named = held if isinstance(held, dict) else {"train": held} if held else {}
    return {str(split): f if isinstance(f, list) else [f] for split, f in named.items()}


def data_file(path: Path, name: str) -> Path:
    """Where a data file lies: beside the YAML, or as lm-eval's command line finds it, from the
    working folder.
    """
    places = [path.parent / name, path.parent / Path(name).name, Path(name)]
    for place in places:
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            if place.is_file():
                return place
    raise UserError(f"{path}: there is no data file {name!r} beside it")


def read(path: Path) -> dict[str, Any]:
    """A task's YAML, checked. Raises UserError in one line."""
    import yaml

    try:
        given = yaml.safe_load(path.read_text())
    except yaml.constructor.ConstructorError:
        raise UserError(f"{path}: tags such as !function, which run code, aren't taken") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is no YAML: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(given, dict) or not {"kind", "task"} & set(given):
        raise UserError(
            f"{path} needs `kind` (one of {', '.join(NEEDED)}), or `task` for lm-eval's own format"
        )
    return _own(path, given) if "kind" in given else _native(path, given)


def _own(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(given["kind"], str) or given["kind"] not in NEEDED:
        raise UserError(
            f"{path}: no kind is called {given['kind']!r}: {nearest(str(given['kind']), NEEDED)}"
        )
    for key in given:
        if key not in KEYS:
            raise UserError(f"{path}: there is no key {key!r}: {nearest(str(key), KEYS)}")
    for key in ("data", "prompt", *NEEDED[given["kind"]]):
        if not given.get(key):
            raise UserError(f"{path}: a task of kind {given['kind']} needs {key!r}")
    for key in ("data", "prompt"):
        if not isinstance(given[key], str):
            raise UserError(f"{path}: {key} is no text")
    return given


def _native(path: Path, given: dict[str, Any]) -> dict[str, Any]:
    if "include" in given:
        raise UserError(f"{path}: `include` isn't taken: write the task in one file")
    if not all(isinstance(f, str) for part in splits(given).values() for f in part):
        raise UserError(f"{path}: data_files are names of files, or lists of them")
    if splits(given) and given.get("dataset_path") != "json":
        raise UserError(f"{path}: data_files are read with `dataset_path: json` only")
    return given


def rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file. Raises UserError with the line."""
    found = []
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{path.name} isn't UTF-8") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict):
            raise UserError(f"{path.name}, line {number}: not a JSON object")
        found.append(row)
    if not found:
        raise UserError(f"{path.name} has no rows")
    return found


def check(found: Iterable[Source | None]) -> None:
    """Before a study starts: whether tasks can be asked at all, and every row of their data. Raises
    UserError.
    """
    for number, source in enumerate(found):
        if number == 0 and importlib.util.find_spec("lm_eval") is None:
            raise UserError("tasks need lm-eval: pip install -c constraints.txt -e '.[tasks]'")
        if source:
            check_data(Path(source.locator))


def check_data(path: Path) -> None:
    """Every row of a task's data. Raises UserError."""
    given = read(path)
    for name in data_of(given):
        found = rows(data_file(path, name))
        if "kind" in given:
            check_rows(given, found, Path(name).name)


def check_rows(given: dict[str, Any], found: list[dict[str, Any]], name: str) -> None:
    """Whether every row has the columns that a user's task names. Raises UserError with the row."""
    wanted = {
        c for key in TEMPLATES if isinstance(given.get(key), str) for c in columns(given[key])
    }
    for number, row in enumerate(found, 1):
        if missing := sorted(wanted - set(row)):
            raise UserError(
                f"{name}, row {number} has no {missing[0]!r}: {nearest(missing[0], row)}"
            )


def columns(template: str) -> set[str]:
    """The columns that a template reads; a text without braces names one."""
    if "{" not in template:
        return {template}
    from jinja2 import Environment, TemplateSyntaxError, meta

    try:
        return set(meta.find_undeclared_variables(Environment().parse(template)))
    except TemplateSyntaxError as error:
        raise UserError(f"{template!r} is no Jinja template: {error.message}") from None
