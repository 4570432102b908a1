"""outputs/latest: where it points, where it may go, and the way back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from sintra.core.errors import UserError
from sintra.results import validation
from sintra.store import history
from sintra.store.files import replace_any, unique_name
from sintra.store.store import Store


def latest_study(root: Path) -> str | None:
    """Return the study that outputs/latest points to."""
    latest = root / "outputs" / "latest"
    return os.readlink(latest) if latest.is_symlink() else None


def point_latest(root: Path, study: str) -> None:
    """Point outputs/latest to a study's folder, in one step."""
    latest = root / "outputs" / "latest"
    temporary = latest.with_name(
        f".latest.{unique_name()}"
    )  # studies of one process may end at once
    temporary.symlink_to(study)
    replace_any(temporary, latest)


def promote(root: Path, store: Store, study: str, changed: bool) -> str:
    """Point outputs/latest to a study if its result is valid; else return what is wrong, in a line.

    `changed` says whether the folder has just been written: where outputs/latest points to it
    already and nothing has changed, nothing is read. A result that has become invalid loses
    outputs/latest to the one before it.
    """
    is_latest = latest_study(root) == study
    if is_latest and not changed:
        return ""
    wrong = validation.cached_problem(root / "outputs" / study, store)
    if not wrong:
        if not is_latest:
            point_latest(root, study)
    elif is_latest and go_back(root, store) is None:
        (root / "outputs" / "latest").unlink()
    return wrong


def go_back(root: Path, store: Store) -> str | None:
    """Point outputs/latest to the newest other study that met its goal and is valid; None where
    there is none.
    """
    for study in earlier_studies(root, store):
        wrong = validation.problem(validation.validate(root / "outputs" / study, store))
        if not wrong:
            point_latest(root, study)
            return study
        print(f"skipped {study}: {wrong}", file=sys.stderr)
    return None


def earlier_studies(root: Path, store: Store) -> Iterator[str]:
    """Yield the other studies that met their goals and are in outputs/, the newest first."""
    skipped = {latest_study(root)}
    for row in reversed(history.read_results(store.root / "history.db")):
        study = str(row["study"])
        if row["status"] != "pass" or study in skipped:
            continue
        if (root / "outputs" / study / "result.json").exists():
            skipped.add(study)
            yield study


def rollback(root: Path, store: Store) -> None:
    """`doit rollback`: go back one result. Raises UserError where there is no valid one."""
    study = go_back(root, store)
    if study is None:
        raise UserError("there is no earlier good result to go back to")
    print(f"outputs/latest is now {study}")
