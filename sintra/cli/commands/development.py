"""`doit check` and `doit docs`: the commands for those who work on Sintra itself."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from sintra.cli.docs import reference
from sintra.core.errors import Transient

# Each worker keeps to one core (tests/conftest.py): llama.cpp's threads spin, and two on a core
# take ten times as long.
TESTS = ["pytest", "-n", "auto", "--dist", "loadfile", "--durations", "20"]


def check_tree(root: Path) -> None:
    """Run the linters, the type checker and the tests. Raises Transient at the first failure."""
    for command in (["ruff", "format", "--check", "."], ["ruff", "check", "."], ["mypy"], TESTS):
        print("+ " + " ".join(command), flush=True)
        try:
            done = subprocess.run([sys.executable, "-m", *command], cwd=root, check=False)
        except OSError as error:
            raise Transient(f"{command[0]} can't be started: {error}") from None
        if done.returncode:
            raise Transient(f"{command[0]} failed (exit {done.returncode})")


def make_docs(root: Path, site: bool) -> None:
    """Write the reference pages; `site`: build the site with MkDocs too (extra: docs)."""
    changed = reference.write_pages(root)
    print(
        f"{len(changed)} reference pages changed" + (f": {', '.join(changed)}" if changed else "")
    )
    if site:
        reference.build_site(root)
