"""`doit forget`, taught about the store: what doit forgets, the action cache forgets too."""

from __future__ import annotations

from typing import Any

from doit.cmd_forget import Forget as DoitForget


class Forget(DoitForget):  # type: ignore[misc]
    """doit's own command, then the AC entries of the forgotten steps."""

    name = "forget"
    doc_purpose = "forget steps, so that the next run makes them again"

    def _execute(self, forget_sub: Any, forget_disable_default: Any, forget_all: Any) -> None:
        super()._execute(forget_sub, forget_disable_default, forget_all)
        chosen = set(self.sel_tasks or ())
        for task in self.task_list:
            hit = forget_all or task.name in chosen or task.subtask_of in chosen
            if hit and task.meta and "step" in task.meta:
                step, store = task.meta["step"], task.meta["store"]
                if step.forget(store):
                    self.outstream.write(f"forgot {step.name}\n")
