"""doit reads this: see sintra/cli/tasks.py."""

import sys
from pathlib import Path

from sintra.cli.tasks import configured, tasks

__all__ = ["DOIT_CONFIG", "task_sintra"]

DOIT_CONFIG = configured(sys.argv[1:])

Path("cache").mkdir(
    exist_ok=True, mode=0o700
)  # doit opens its database in it before any task is made


def task_sintra():
    """Every command and every step of the study that the command line names."""
    yield from tasks(Path.cwd(), sys.argv[1:])
