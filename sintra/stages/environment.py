"""An environment for libraries that clash with the main one; its artifact is the lock: every
version.
"""

from __future__ import annotations

import json

from sintra.environments import create, folder_of, interpreter, settle, write_lock
from sintra.errors import Infeasible
from sintra.foreign import call
from sintra.stage import Context, Stage


def run(context: Context) -> None:
    """Write lock.json. params: see sintra.environments.wanted."""
    name, root = context.params["name"], context.params["root"]
    if "here" in context.params:
        if context.params["here"][root] == "none":
            raise Infeasible(
                "not_installed",
                f"{root} isn't installed: pip install 'sintra[{name}]', or compress.python=auto",
            )
        write_lock(context)
        return
    made = create(context, context.params["requirements"])
    call(context, interpreter(made), "sintra.environments:write_lock")
    lock = json.loads((context.out / "lock.json").read_text())
    settle(made, folder_of(context, lock), lock)


STAGE = Stage("environment", 1, run, resource="light", optional=True)
