"""Many studies in one doit run: a cell for each combination of the options, with the steps that
cells share made once.
"""

from __future__ import annotations

import contextlib
import fnmatch
import itertools
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.build.graph import MARK
from sintra.config.compose import GROUPS, conf_dirs, names
from sintra.config.quoting import names_path
from sintra.core.canonical import canonical, sealed, sha256, unsealed
from sintra.core.errors import UserError, nearest
from sintra.store.files import read_regular, write_if_possible
from sintra.study.json_types import CellJson
from sintra.study.result_upgrade import parse_result
from sintra.study.workspace import Workspace, cache_root, open_workspace

if TYPE_CHECKING:  # the extra `remote` may be missing
    from sintra.store.remote.address import Address
    from sintra.store.remote.shared import SharedStore


# a function of Hydra's sweeper, or a comma outside brackets and quotes
SEVERAL_VALUES = re.compile(r"^(choice|range|glob|shuffle|sort|tag|interval)\(|^[^\[{'\"(]*,")
MAX_STUDIES = 20_000

Overrides = list[str]


def has_several_values(root: Path, override: str) -> bool:
    """Return whether an override names more than one value, in Hydra's sweeper syntax.

    What is a file or folder, seen from the project's folder, is one value, whatever its name.
    """
    value = override.partition("=")[2]
    return bool(SEVERAL_VALUES.match(value)) and not names_path(root, value)


def swept_options(root: Path, raw: Overrides) -> list[str]:
    """Return the names of the options that have several values."""
    return [o.partition("=")[0] for o in raw if has_several_values(root, o)]


def sweep_cells(root: Path, raw: Overrides) -> list[Overrides]:
    """Return every combination, in order, the last option changing fastest. Raises UserError."""
    choices = [single_overrides(root, o) if has_several_values(root, o) else [o] for o in raw]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MAX_STUDIES:
        raise UserError(f"that is {count} studies; a sweep takes {MAX_STUDIES} at most")
    return [list(c) for c in itertools.product(*choices)]


def cached_cells(root: Path, raw: Overrides) -> list[Overrides]:
    """Return the cells of a command line; Hydra's parser is imported only for a new one."""
    state = [sorted(names(root, g)) for g in GROUPS] + [str(d) for d in conf_dirs(root)]
    state += [swept_options(root, raw)]  # what names a path is not a list
    path = cache_root(root, raw) / "meta" / "cells" / f"{sha256(canonical([state, raw]))}.json"
    try:
        cached = unsealed(read_regular(path))
    except OSError:
        cached = None
    with contextlib.suppress(KeyError, TypeError):
        if cached is not None:
            return [[str(o) for o in cell] for cell in cached["cells"]]
    cells = sweep_cells(root, raw)
    write_if_possible(path, sealed(canonical({"cells": cells})))
    return cells


def single_overrides(root: Path, override: str) -> Overrides:
    """Return an override for each value: lists, choice(), range(), glob(), shuffle() and sort() as
    Hydra's basic sweeper takes them. Raises UserError.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser  # slow: not for a no-op
    from hydra.errors import HydraException

    try:
        return expanded(root, override, OverridesParser.create().parse_override(override))
    except (HydraException, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"{override!r} can't be read as a list of values: {first_line}") from None


def expanded(root: Path, override: str, parsed: Any) -> Overrides:
    """Return an override for each value of a parsed one (hydra's Override). Raises UserError, and
    what Hydra raises.
    """
    from hydra.core.override_parser.types import Glob, RangeSweep  # slow: not for a no-op

    key = override.partition("=")[0]
    value: Any = parsed.value()
    if isinstance(value, Glob):
        return [f"{key}={name}" for name in glob_names(root, key, value.include, value.exclude)]
    if isinstance(value, RangeSweep) and not is_short_range(value):
        raise UserError(
            f"{override!r} is not a range(start,stop,step) that ends soon: a sweep takes "
            f"{MAX_STUDIES} at most"
        )
    if not parsed.is_discrete_sweep():
        raise UserError(
            f"{override!r} is a range without steps: give values, or range(start,stop,step)"
        )
    values = itertools.islice(parsed.sweep_string_iterator(), MAX_STUDIES + 1)
    overrides = [f"{key}={value}" for value in values]
    if len(overrides) > MAX_STUDIES:
        raise UserError(f"{key} has more than {MAX_STUDIES} values")
    return overrides


def is_short_range(value: Any) -> bool:
    """Return whether a RangeSweep has an end and isn't too long, without counting through it."""
    try:
        steps = (float(value.stop) - float(value.start)) / float(value.step)
        return bool(0 <= steps <= MAX_STUDIES)
    except (TypeError, ValueError, ArithmeticError):
        return False


def glob_names(root: Path, key: str, include: list[str], exclude: list[str]) -> list[str]:
    """Return the names in conf/ that match. Raises UserError where none does."""
    if key not in GROUPS:
        raise UserError(f"glob() is for {', '.join(GROUPS)}, not for {key}")

    def matches(name: str, patterns: list[str]) -> bool:
        return any(fnmatch.fnmatch(name, p) for p in patterns)

    known = sorted(names(root, key) - {"custom"})
    matching = [n for n in known if matches(n, include) and not matches(n, exclude)]
    if not matching:
        raise UserError(f"no {key} matches {', '.join(include)}: {nearest(include[0], known)}")
    return matching


def open_studies(root: Path, raw: Overrides) -> list[Workspace]:
    """Open a study for each cell; equal ones once. Raises UserError where any of them can't be
    opened, before anything is started.
    """
    by_id: dict[str, Workspace] = {}
    shared_stores: dict[Address, SharedStore] = {}
    for cell in cached_cells(root, raw):
        workspace = open_workspace(root, cell, shared_stores)
        by_id.setdefault(workspace.study.id, workspace)
    return labeled(list(by_id.values()))


def labeled(workspaces: list[Workspace]) -> list[Workspace]:
    """Return the workspaces with a label of their own where steps that differ share a name."""
    bases = [workspace.base() for workspace in workspaces]
    distinct = dict(zip(bases, workspaces, strict=True)).values()
    count = Counter(workspace.study.model for workspace in distinct)
    return [
        replace(workspace, label=f"{workspace.study.model}{MARK}{base[:6]}")
        if count[workspace.study.model] > 1
        else workspace
        for workspace, base in zip(workspaces, bases, strict=True)
    ]


def cell_results(root: Path, workspaces: list[Workspace], ended: set[str]) -> list[CellJson]:
    """Return what each cell came to, from its result.json; status "failed" for a study that isn't
    among those that ended.
    """
    return [cell_result(root, w, w.study.id in ended) for w in workspaces]


def cell_result(root: Path, workspace: Workspace, ended: bool) -> CellJson:
    """Return what one cell came to."""
    study = workspace.study
    if not ended:
        return {
            "study": study.id,
            "status": "failed",
            "reason": "",
            "model": study.model,
            "hardware": study.hardware.name,
            "winner": None,
            "overrides": list(study.overrides),
        }
    result = parse_result((root / "outputs" / study.id / "result.json").read_text())
    return {
        "study": result["study"],
        "status": result["status"],
        "reason": result["reason"],
        "model": result["model"],
        "hardware": result["hardware"],
        "winner": result["winner"],
        "overrides": list(study.overrides),
    }


def sweep_folder(root: Path, raw: Overrides, command: str) -> Path:
    """Return where a sweep's own files go."""
    return root / "outputs" / f"{command}-{sha256(canonical(sorted(raw)))[:8]}"
