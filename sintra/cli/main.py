"""The console script: `sintra init` makes a folder a project; in a project, `sintra ...` is `doit
...`.
"""

from __future__ import annotations

import sys
from pathlib import Path

from sintra import __version__
from sintra.config import project
from sintra.config.quoting import user_path
from sintra.core.errors import UserError
from sintra.core.process import end_when_unread

USAGE = """usage: sintra init [FOLDER]   copy dodo.py, conf/ and the bundled models into a folder
       sintra doctor          what is installed, and the command that mends what isn't
       sintra ...             in such a folder the same as `doit ...`,
                              e.g. sintra optimize hardware=laptop"""


def main() -> None:
    """Run the command. Exit codes are doit's; 2 for a mistake on the command line."""
    end_when_unread()
    sys.exit(run_command(sys.argv[1:]))


def run_command(argv: list[str]) -> int:
    """Run one command line. Returns its exit code."""
    try:
        if argv[:1] == ["init"]:
            return init_project(argv[1:])
        if argv[:1] == ["doctor"]:
            return examine_here(argv[1:])
        if argv[:1] == ["--version"]:
            print(f"sintra {__version__}")
            return 0
        if argv in ([], ["--help"], ["-h"], ["help"]) and not Path("dodo.py").exists():
            print(USAGE)
            return 0
        if argv == ["-h"]:
            argv = ["--help"]
        if not Path("dodo.py").exists() and not {"-f", "-d"} & set(argv):
            raise UserError("there is no dodo.py here: `sintra init` makes this folder a project")
    except UserError as error:
        print(f"sintra: {error}", file=sys.stderr)
        return 2
    from doit.doit_cmd import DoitMain  # `sintra init` does without

    return int(DoitMain().run(argv))


def examine_here(arguments: list[str]) -> int:
    """Run `sintra doctor`, which needs neither doit nor a project. Returns the exit code.

    Raises UserError.
    """
    from sintra.cli.commands.doctor import examine  # `sintra init` does without

    words = [word for argument in arguments for word in argument.split("=", 1)]
    format = "text"
    if "--format" in words:
        at = words.index("--format")
        format = "".join(words[at + 1 : at + 2])
        del words[at : at + 2]
    overrides = [a for a in arguments if "=" in a and not a.startswith("-")]
    known = {"--online", *(word for item in overrides for word in item.split("=", 1))}
    if wrong := [word for word in words if word not in known]:
        raise UserError(f"doctor takes --online and --format text or json, not {wrong[0]!r}")
    return 0 if examine(Path.cwd(), overrides, "--online" in words, format) else 1


def init_project(arguments: list[str]) -> int:
    """Make a folder a project: `sintra init [FOLDER]`. Returns the exit code. Raises UserError."""
    wrong = [a for a in arguments if a.startswith("-") or "=" in a]
    if wrong or len(arguments) > 1:
        raise UserError(f"init takes one folder at most, not {' '.join(wrong or arguments)!r}")
    folder = user_path(arguments[0] if arguments else ".")
    print(project.in_words(project.init(folder)))
    if arguments and folder.resolve() != Path.cwd():
        print(f"first: cd {folder}")
    return 0
