"""outputs/latest: where it points, where it may go, and the way back."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sintra.core.errors import UserError
from sintra.results import validation
from sintra.store import history
from sintra.store.files import unique_name
from sintra.store.store import Store


def present(root: Path) -> str | None:
    """The study that outputs/latest points to."""
    latest = root / "outputs" / "latest"
    return os.readlink(latest) if latest.is_symlink() else None


def point(root: Path, study: str) -> None:
    """outputs/latest -> the study's folder, in one step."""
    latest = root / "outputs" / "latest"
    temporary = latest.with_name(
        f".latest.{unique_name()}"
    )  # studies of one process may end at once
    temporary.symlink_to(study)
    os.replace(temporary, latest)


def promote(root: Path, store: Store, study: str, changed: bool) -> str:
    """Move outputs/latest to a study if its result is sound; what is wrong with it otherwise, in a
    line.

    changed: whether the folder has just been written. Where outputs/latest is there already and
    nothing has changed, nothing is read. A result that is wrong loses outputs/latest to the one
    before it.
    """
    if present(root) == study and not changed:
        return ""
    wrong = validation.checked(root / "outputs" / study, store)
    if not wrong:
        if present(root) != study:
            point(root, study)
    elif present(root) == study and retreat(root, store) is None:
        (root / "outputs" / "latest").unlink()
    return wrong


def retreat(root: Path, store: Store) -> str | None:
    """Go to the newest other study that met its goal and is sound; None where there is none."""
    was, seen = present(root), set()
    for row in reversed(history.read_results(store.root / "history.db")):
        study = str(row["study"])
        if (
            row["status"] != "met"
            or study == was
            or study in seen
            or not (root / "outputs" / study / "result.json").exists()
        ):
            continue
        seen.add(study)
        wrong = validation.problem(validation.validate(root / "outputs" / study, store))
        if not wrong:
            point(root, study)
            return study
        print(f"skipped {study}: {wrong}", file=sys.stderr)
    return None


def rollback(root: Path, store: Store) -> None:
    """`doit rollback`. Raises UserError where there is nothing sound to go back to."""
    study = retreat(root, store)
    if study is None:
        raise UserError("there is no earlier good result to go back to")
    print(f"outputs/latest is now {study}")
