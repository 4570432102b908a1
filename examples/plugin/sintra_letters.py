"""A stage that lists the tensors of every finalist, by type, and a listener that keeps a diary."""

from __future__ import annotations

import time
from collections import Counter

from sintra.plugin import Context, Event, Listener, Setting, Stage


def count(context: Context) -> None:
    """How many tensors each type has, as a file, and their number as a measurement."""
    from gguf import GGUFReader

    reader = GGUFReader(context.inputs["gguf"] / "model.gguf")
    types = Counter(t.tensor_type.name for t in reader.tensors)
    (context.out / "letters.txt").write_text(
        "".join(f"{name} {number}\n" for name, number in sorted(types.items()))
    )
    total = {"metric": "letters_tensors", "value": sum(types.values()), "unit": "1", "how": "exact"}
    context.write_json("measurements.json", [total])


class Diary:
    """A line for each event, in outputs/diary.txt."""

    def __init__(self, setting: Setting) -> None:
        self.path = setting.root / "outputs" / "diary.txt"
        self.path.parent.mkdir(
            exist_ok=True
        )  # a study's first event may come before its first result

    def hear(self, event: Event) -> None:
        """Write it down."""
        at = time.strftime("%H:%M:%S", time.gmtime(event.at))
        with self.path.open("a") as handle:
            handle.write(f"{at} {event.study} {event.kind}\n")

    def close(self) -> None:
        """Nothing is open."""


STAGE = Stage("letters", 1, count, tools=("gguf",), resource="light")
DIARY = Listener("diary", Diary)
