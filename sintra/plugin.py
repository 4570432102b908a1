"""What plugins import: stages and probes, listeners, and the three ways in which a step may fail.

These names stay where they are; every other module may move between versions.
"""

from sintra.core.errors import Infeasible, Transient, UserError
from sintra.core.events import Event, Hearing, Listener, Setting
from sintra.core.stage import Context, Stage

__all__ = [
    "Context",
    "Event",
    "Hearing",
    "Infeasible",
    "Listener",
    "Setting",
    "Stage",
    "Transient",
    "UserError",
]
