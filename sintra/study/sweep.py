"""Many studies in one doit run: a cell for each combination of the options, with the steps that
cells share made once.
"""

from __future__ import annotations

import fnmatch
import itertools
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sintra.build.graph import MARK
from sintra.config.compose import GROUPS, conf_dirs, names
from sintra.core.canonical import canonical, sealed, sha256, unsealed
from sintra.core.errors import UserError, nearest
from sintra.store.files import write_if_possible
from sintra.study.workspace import Workspace, cache_root, open_workspace

if TYPE_CHECKING:
    from sintra.store.remote.address import Address
    from sintra.store.remote.shared import SharedStore

SWEPT = re.compile(r"^(choice|range|glob|shuffle|sort|tag|interval)\(|^[^\[{'\"(]*,")
MOST = 20_000

Overrides = list[str]


def several(override: str) -> bool:
    """Whether an override names more than one value, in Hydra's sweeper syntax."""
    return bool(SWEPT.match(override.partition("=")[2]))


def cells(root: Path, raw: Overrides) -> list[Overrides]:
    """Every combination, in order, the last option changing fastest. Raises UserError."""
    choices = [values(root, o) if several(o) else [o] for o in raw]
    count = 1
    for choice in choices:
        count *= len(choice)
    if count > MOST:
        raise UserError(f"that is {count} studies; a sweep takes {MOST} at most")
    return [list(c) for c in itertools.product(*choices)]


def kept_cells(root: Path, raw: Overrides) -> list[Overrides]:
    """The same, remembered: Hydra's parser is imported only for a command line that is new."""
    state = [sorted(names(root, g)) for g in GROUPS] + [str(d) for d in conf_dirs(root)]
    kept = cache_root(root, raw) / "meta" / "cells" / f"{sha256(canonical([state, raw]))}.json"
    try:
        known = unsealed(kept.read_bytes())
    except OSError:
        known = None
    if known is not None:
        return [[str(o) for o in cell] for cell in known["cells"]]
    found = cells(root, raw)
    write_if_possible(kept, sealed(canonical({"cells": found})))
    return found


def values(root: Path, override: str) -> Overrides:
    """One override for each value: lists, choice(), range(), glob(), shuffle(), sort() as Hydra's
    basic sweeper takes them.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, RangeSweep
    from hydra.errors import HydraException

    key = override.partition("=")[0]
    try:
        parsed = OverridesParser.create().parse_override(override)
        value: Any = parsed.value()
        if isinstance(value, Glob):
            return [f"{key}={name}" for name in globbed(root, key, value.include, value.exclude)]
        if isinstance(value, RangeSweep) and not possible(value):
            raise UserError(
                f"{override!r} is no range(start,stop,step) that ends soon: a sweep takes {MOST} "
                "at most"
            )
        if not parsed.is_discrete_sweep():
            raise UserError(
                f"{override!r} is a range without steps: give values, or range(start,stop,step)"
            )
        found = [f"{key}={v}" for v in itertools.islice(parsed.sweep_string_iterator(), MOST + 1)]
        if len(found) > MOST:
            raise UserError(f"{key} has more than {MOST} values")
        return found
    except (HydraException, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise UserError(
            f"{override!r} can't be read as a list of values: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}"
        ) from None


def possible(value: Any) -> bool:
    """Whether a range has an end and isn't too long, before anything counts through it."""
    try:
        return bool(0 <= (float(value.stop) - float(value.start)) / float(value.step) <= MOST)
    except (TypeError, ValueError, ArithmeticError):
        return False


def globbed(root: Path, key: str, include: list[str], exclude: list[str]) -> list[str]:
    """The names in conf/ that match."""
    if key not in GROUPS:
        raise UserError(f"glob() is for {', '.join(GROUPS)}, not for {key}")
    known = sorted(names(root, key) - {"custom"})
    found = [n for n in known if any(fnmatch.fnmatch(n, p) for p in include)]
    found = [n for n in found if not any(fnmatch.fnmatch(n, p) for p in exclude)]
    if not found:
        raise UserError(f"no {key} matches {', '.join(include)}: {nearest(include[0], known)}")
    return found


def opened(root: Path, raw: Overrides) -> list[Workspace]:
    """A study for each cell; equal ones once. Raises UserError where any of them can't be, before
    anything is started.
    """
    found: dict[str, Workspace] = {}
    shared_stores: dict[Address, SharedStore] = {}
    for cell in kept_cells(root, raw):
        workspace = open_workspace(root, cell, shared_stores)
        found.setdefault(workspace.study.id, workspace)
    return labeled(list(found.values()))


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


def swept(raw: Overrides) -> list[str]:
    """The options that name several values."""
    return [o.partition("=")[0] for o in raw if several(o)]


def results(root: Path, workspaces: list[Workspace], ended: set[str]) -> list[dict[str, Any]]:
    """What each cell came to: its result.json, or status "failed" where it didn't end. ended: the
    studies that did.
    """
    found = []
    for workspace in workspaces:
        path = root / "outputs" / workspace.study.id / "result.json"
        blank: dict[str, Any] = {
            "study": workspace.study.id,
            "status": "failed",
            "winner": None,
            "model": workspace.study.model,
            "hardware": workspace.study.hardware.name,
        }
        result = json.loads(path.read_text()) if workspace.study.id in ended else blank
        found.append(result | {"overrides": list(workspace.study.overrides)})
    return found


def folder(root: Path, raw: Overrides, command: str) -> Path:
    """Where a sweep's own files go."""
    return root / "outputs" / f"{command}-{sha256(canonical(sorted(raw)))[:8]}"
