"""The doit tasks. dodo.py imports this and nothing else.

A study's rounds are native delayed tasks: recorded rounds are ordinary tasks; the frontier
`round:NN` is created after `propose:NN` has written its file; each round waits for the next one, so
that `optimize` waits for all.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from doit.task import Task

from sintra.build.console import CONSOLE
from sintra.cli.chain import Chain, Many, told
from sintra.cli.commands import exports, registry
from sintra.cli.reporter import AT_END, Reporter
from sintra.config import compose
from sintra.config.policy import side_by_side
from sintra.core.errors import UserError, disk_trouble
from sintra.core.process import stop_when_told
from sintra.integrations.listeners import feed
from sintra.study import round_files, running, sweep
from sintra.study.workspace import open_workspace

MANY = ("sweep", "compare")
WORDED = ("validate", "report")  # the words behind them are studies
FREE = frozenset(
    {*registry.DOCS, *exports.names(), "help"}
    - {"optimize", "sweep", "compare", "plan", "why", "push", "pull"}
)  # these open a study
VALUED = {
    "-n",
    "-f",
    "-d",
    "-o",
    "-r",
    "-P",
    "-v",
    "--format",
    "--type",
    "--out",
    "--csv",
    "--log",
    "--minutes",
    "--plot",
    "--older",
    "--max-size",
    "--pin",
    "--unpin",
    "--endpoint",
    "--study",
    "--host",
    "--port",
}

DOIT_CONFIG = {
    "backend": "sintra",
    "dep_file": "cache/doit.db",
    "default_tasks": ["next"],
    "reporter": Reporter,
    "par_type": "thread",
    "verbosity": 2,
    "check_file_uptodate": "timestamp",
}


def configured(argv: list[str]) -> dict[str, Any]:
    """doit's settings; in a sweep a failed study doesn't stop the others, and where steps run
    elsewhere many do at once.
    """
    beside = {"num_process": n} if (n := side_by_side(compose.overrides_of(argv))) else {}
    return DOIT_CONFIG | beside | ({"continue": True} if set(words(argv)) & set(MANY) else {})


def words(argv: list[str]) -> list[str]:
    """The command line's task and command names."""
    return [
        a
        for i, a in enumerate(argv)
        if not a.startswith("-") and "=" not in a and not (i and argv[i - 1] in VALUED)
    ]


def tasks(root: Path, argv: list[str]) -> Iterator[Task]:
    """Every task of this command line. A mistake of the user's ends the process: one line, exit
    code 2.
    """
    raw, named = compose.overrides_of(argv), words(argv)
    try:
        if named and {"--help", "-h"} & set(argv):
            from sintra.cli import manual  # not on the no-op path

            manual.show(root, named)
            raise SystemExit(0)
        together = next((n for n in named if n in MANY), None)
        if together is None and (
            many := [
                o
                for o in raw
                if sweep.has_several_values(o) and o.partition("=")[0] in compose.GROUPS
            ]
        ):
            raise UserError(f"{many[0]} names several: use `doit sweep` or `doit compare`")
        places = sweep.open_studies(root, raw) if together else []
        free = not named or set(named) <= FREE or named[0] in WORDED
        place = None if together or free else open_workspace(root, raw)
        for opened in [place] if place else places[:1]:
            CONSOLE.configure(opened.conf["progress"])
        for each in [place] if place and "optimize" in named else places:
            feed.check(each.conf)
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except OSError as error:
        if (trouble := disk_trouble(error, Path(error.filename or "the cache"))) is error:
            raise
        print(f"sintra: {trouble}", file=sys.stderr)
        raise SystemExit(1) from None
    yield from registry.tasks(root, raw, place)
    if place or places:
        stop_when_told()
    if set(named) & {"optimize", *MANY}:
        for each in [place] if place else places:
            round_files.reopen_study(each)
            if not round_files.study_ended(each):
                running.note_run(each)
    chains = Many(root, raw, places, together) if together else None
    if place:
        chain = Chain(place)
        if "optimize" in named:
            AT_END.extend([chain.cut, lambda: told([chain.story])])
        yield from chain.tasks()
    if chains:
        yield from chains.tasks()
