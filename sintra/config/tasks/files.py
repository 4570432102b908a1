"""Read what `probe.tasks` may name: a bundled task, a user's YAML file, a task of lm-eval's own.

A user's file is ten lines: `kind` (choice, answer, summary, code), `data` (a JSONL file beside it),
and how a row becomes a prompt and an answer, each a column's name or a Jinja template. A file that
has `task:` is lm-eval's own format
(https://github.com/EleutherAI/lm-evaluation-harness/blob/main/docs/task_guide.md), with JSONL data
and a closed list of keys (format.py).
"""

from __future__ import annotations

import contextlib
import importlib.util
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol

from sintra.config.quoting import is_file, user_path
from sintra.config.slugs import check_name
from sintra.config.tasks.fields import Fields, fill_fields
from sintra.config.tasks.format import check_native, short
from sintra.config.tasks.jsonl import read_objects
from sintra.config.tasks.rows import TaskRow as TaskRow
from sintra.config.tasks.rows import check_choices, check_columns, check_kinds, check_written
from sintra.core.artifact import Artifact, File, Source
from sintra.core.errors import UserError, nearest

NEEDED = {
    "choice": ("choices", "answer"),
    "answer": ("answer",),
    "summary": ("answer",),
    "code": ("tests",),
}
TEMPLATES = ("prompt", "choices", "answer", "tests")
KEYS = {"kind", "data", "prompt", "choices", "answer", "tests", "stop", "max_tokens"}
TaskFile = dict[str, Any]  # a task's YAML: ours, or lm-eval's own format
FILE = "task.yaml"
WRITTEN = re.compile(r"\{\{-?\s*(\w+)\s*-?\}\}")  # a column that a template writes as it is
QUOTES = "'\""


def task_name(item: str) -> str:
    """Return a task's name in metrics: a file's stem, or the name itself."""
    stem = Path(item).stem if _is_path(item) else item
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", stem).strip("-.") or "task"


def _is_path(item: str) -> bool:
    return item.endswith((".yaml", ".yml")) or "/" in item


def task_path(root: Path, item: str) -> Path | None:
    """Return the file of a task, or None for one of lm-eval's own.

    Raises UserError for a file that isn't there.
    """
    bundled = root / "models" / "tasks" / f"{item}.yaml"
    if not _is_path(item):
        return bundled if bundled.is_file() else None
    path = root / user_path(item)
    if not is_file(path):
        raise UserError(f"no such task file: {item!r} (probe.tasks)")
    return path


class FileDigests(Protocol):
    """What knows the digests of the user's files."""

    def file(self, path: Path) -> tuple[int, str]:
        """Return a file's size, bytes, and its SHA-256."""
        ...


def pinned_tasks(
    root: Path, items: tuple[str, ...], digests: FileDigests, run_code: bool = False
) -> dict[str, Source | None]:
    """Return the pin of every task by name; None for lm-eval's own.

    Raises UserError for a file that can't be taken, and for two tasks of one name.
    """
    pins: dict[str, Source | None] = {}
    for item in items:
        name, path = task_name(item), task_path(root, item)
        check_name(f"probe.tasks={item!r}", name)
        if name in pins:
            raise UserError(
                f"probe.tasks has two tasks called {name!r}: a file's name is the task's"
            )
        pins[name] = pin_task(path, digests, run_code) if path else None
    return pins


def pin_task(path: Path, digests: FileDigests, run_code: bool) -> Source:
    """Return the pin of a task's files, by their content. Raises UserError."""
    if runs_code(path) and not run_code:
        raise UserError(
            f"{path} runs what the model writes: say probe.run_code=true to allow it "
            "(docs/howto/tasks.md)"
        )
    files = task_files(path).items()
    tree = Artifact(tuple(File(name, *digests.file(file)) for name, file in files))
    return Source("task", tree.digest, str(path.resolve()))


def task_files(path: Path) -> dict[str, Path]:
    """Return every file of a task by its name in the artifact: the YAML and its data."""
    data = data_names(read_task(path))
    names = [FILE, *(Path(name).name for name in data)]
    if len(set(names)) < len(names):
        raise UserError(f"{path}: data files need different names")
    return dict(zip(names, [path, *(data_file(path, name) for name in data)], strict=True))


def data_names(task: TaskFile) -> list[str]:
    """Return the data files that a task names, in order."""
    return [file for part in splits(task).values() for file in part]


def splits(task: TaskFile) -> dict[str, list[str]]:
    """Return split -> data files."""
    if "kind" in task:
        return {"test": [task["data"]]}
    more = task.get("dataset_kwargs")
    files = more.get("data_files") if isinstance(more, dict) else None
    by_split = files if isinstance(files, dict) else {"train": files} if files else {}
    return {str(split): f if isinstance(f, list) else [f] for split, f in by_split.items()}


def data_file(path: Path, name: str) -> Path:
    """Return where a data file lies. Raises UserError.

    It lies beside the YAML or below, or where lm-eval's command line finds it: below the working
    folder.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise UserError(f"{path}: data file {name!r}: give a path below the file's own folder")
    for candidate in (path.parent / name, path.parent / Path(name).name, Path(name)):
        with contextlib.suppress(OSError, ValueError):  # a name that no file can have
            if candidate.is_file():
                return candidate
    raise UserError(f"{path}: there is no data file {name!r} beside it")


def read_task(path: Path) -> TaskFile:
    """Return a task's YAML, checked. Raises UserError in one line."""
    import yaml  # not on the no-op path

    try:
        task = yaml.safe_load(path.read_text(encoding="utf-8-sig"))
    except yaml.constructor.ConstructorError:
        raise UserError(f"{path}: tags such as !function, which run code, aren't taken") from None
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())[:120]}") from None
    if not isinstance(task, dict) or not {"kind", "task"} & set(task):
        raise UserError(
            f"{path} needs `kind` (one of {', '.join(NEEDED)}), or `task` for lm-eval's own format"
        )
    return _check_own(path, task) if "kind" in task else _check_native(path, task)


def _check_own(path: Path, task: TaskFile) -> TaskFile:
    if not isinstance(task["kind"], str) or task["kind"] not in NEEDED:
        kind = short(task["kind"])
        raise UserError(f"{path}: no kind is called {kind}: {nearest(kind.strip(QUOTES), NEEDED)}")
    for key in task:
        if key not in KEYS:
            raise UserError(f"{path}: unknown key {key!r}: {nearest(str(key), KEYS)}")
    for key in ("data", "prompt", *NEEDED[task["kind"]]):
        if not task.get(key):
            raise UserError(f"{path}: a task of kind {task['kind']} needs {key!r}")
    for key in ("data", *TEMPLATES):
        constant = key == "answer" and task["kind"] == "choice" and type(task.get(key)) is int
        if not constant:  # the number of the right choice, the same in every row
            _check_text(path, task, key)
    stop = task.get("stop", "")
    if not all(isinstance(s, str) for s in (stop if isinstance(stop, list) else [stop])):
        raise UserError(f"{path}: stop is {short(stop)}, not a text or a list of texts: quote it")
    most = task.get("max_tokens", 1)
    if type(most) is not int or most < 1:
        raise UserError(f"{path}: max_tokens is {short(most)}, not a whole number from 1 on")
    return task


def _check_text(path: Path, task: TaskFile, key: str) -> None:
    """Raise UserError where a key's value isn't a text; choices may be a list of texts."""
    value = task.get(key, "")
    listed = value if key == "choices" and isinstance(value, list) else [value]
    if not all(isinstance(text, str) for text in listed):
        plain = isinstance(value, bool | int | float)
        hint = f": in quotes it is one ({key}: '...')" if plain else ""
        raise UserError(f"{path}: {key} is {short(value)}, which is not a text{hint}")


def _check_native(path: Path, task: TaskFile) -> TaskFile:
    if "include" in task:
        raise UserError(f"{path}: `include` isn't taken: write the task in one file")
    more = task.get("dataset_kwargs")
    if isinstance(more, dict) and set(more) - {"data_files"}:
        raise UserError(f"{path}: dataset_kwargs has data_files, and nothing else")
    if not all(isinstance(f, str) for part in splits(task).values() for f in part):
        raise UserError(f"{path}: data_files are names of files, or lists of them")
    check_native(path, task, set(splits(task)))
    return task


def read_rows(path: Path) -> list[TaskRow]:
    """Return the rows of a JSONL file. Raises UserError with the line."""
    rows = [row for _, row in read_objects(path)]
    if not rows:
        raise UserError(f"{path.name} has no rows")
    return rows


def check_tasks(pins: Iterable[Source | None]) -> None:
    """Check every row of the tasks' data, and that lm-eval is installed. Raises UserError."""
    for number, source in enumerate(pins):
        if number == 0 and importlib.util.find_spec("lm_eval") is None:
            raise UserError("tasks need lm-eval: pip install -c constraints.txt -e '.[tasks]'")
        if source:
            check_data(Path(source.locator))


def check_data(path: Path) -> None:
    """Check every row of a task's data. Raises UserError."""
    task = read_task(path)
    read_fields(task, lambda name: data_file(path, name))


def read_fields(task: TaskFile, find: Callable[[str], Path]) -> dict[str, list[Fields]]:
    """Return split -> the fields of every row; find: where a data file lies. Raises UserError.

    In lm-eval's format a split has the columns of its first row, as its own reader has it.
    """
    fields: dict[str, list[Fields]] = {}
    for split, names in splits(task).items():
        columns: list[str] | None = None
        for name in names:
            rows = read_rows(find(name))
            if "kind" in task:
                check_rows(task, rows, Path(name).name)
            check_kinds(rows, Path(name).name)
            if "kind" not in task:
                columns = columns or list(rows[0])
                rows = [{column: row.get(column) for column in columns} for row in rows]
            fields.setdefault(split, []).extend(fill_fields(task, rows, Path(name).name))
    return fields


def check_rows(task: TaskFile, rows: list[TaskRow], name: str) -> None:
    """Raise UserError with the row that lacks a column which a user's task names, or has something
    there that can't be. What else templates read is checked as they are rendered.
    """
    named = {task[key] for key in TEMPLATES if isinstance(task.get(key), str)}
    check_columns({text for text in named if "{" not in text}, rows, name)
    check_written({column for text in named for column in WRITTEN.findall(text)}, rows, name)
    if task["kind"] == "choice" and isinstance(task["choices"], str):
        check_choices(task["choices"], task["answer"], rows, name)


def runs_code(path: Path) -> bool:
    """Return whether a task's file is of the kind that runs what the model writes."""
    return read_task(path).get("kind") == "code"
