"""The console script: `sintra init` makes a folder a project; in a project, `sintra ...` is `doit
...`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sintra import __version__
from sintra.config import project
from sintra.core.errors import UserError

USAGE = """usage: sintra init [FOLDER]   lay down dodo.py, conf/ and the bundled models
       sintra ...             in such a folder the same as `doit ...`, e.g. sintra optimize hardware=laptop"""


def main() -> None:
    """The command. Exit codes are doit's; 2 for a mistake on the command line."""
    sys.exit(run(sys.argv[1:]))


def run(argv: list[str]) -> int:
    """One command line; returns its exit code."""
    try:
        if argv[:1] == ["init"]:
            return start(argv[1:])
        if argv[:1] == ["--version"]:
            print(f"sintra {__version__}")
            return 0
        if argv[:1] in (["--help"], ["-h"]) and not Path("dodo.py").exists():
            print(USAGE)
            return 0
        if not Path("dodo.py").exists() and not {"-f", "-d"} & set(argv):
            raise UserError("there is no dodo.py here: `sintra init` makes this folder a project")
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        return 2
    from doit.doit_cmd import DoitMain

    return int(DoitMain().run(argv))


def start(given: list[str]) -> int:
    """`sintra init [FOLDER]`."""
    wrong = [a for a in given if a.startswith("-") or "=" in a]
    if wrong or len(given) > 1:
        raise UserError(f"init takes one folder at most, not {' '.join(wrong or given)!r}")
    folder = Path(given[0] if given else ".").expanduser()
    print(project.in_words(project.init(folder)))
    if given and folder.resolve() != Path.cwd():
        print(f"first: cd {folder}")
    return 0
