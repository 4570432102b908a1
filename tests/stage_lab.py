"""Stages run by hand on a tiny model."""

from conftest import ROOT

from sintra.core.artifact import Artifact
from sintra.core.stage import Context
from sintra.formats.gguf.layout import read_layout
from sintra.stages import convert, quantize
from sintra.store.store import Store

TEXT = (ROOT / "models" / "texts" / "search.txt").read_text()[:6000]


class Lab:
    """Runs stages by hand, each once."""

    def __init__(self, root, tiny, toolchain):
        self.root, self.tiny, self.number = root, tiny, 0
        store = Store(toolchain)
        record = next(r for r in store.read_entries() if r["stage"] == "toolchain")
        self.tools = store.lay_out(store.lookup(record["key"]), root / "tools")
        assert isinstance(store.lookup(record["key"]), Artifact)
        (root / "text").mkdir()
        (root / "text" / "text.txt").write_text(TEXT)
        self.gguf = self.run(convert, {"type": "f16"}, model=tiny, toolchain=self.tools)

    def run(self, module, params, **inputs):
        """The output folder of a stage."""
        self.number += 1
        out = self.root / f"out{self.number}"
        out.mkdir()
        module.run(Context(params, inputs, out, {}, self.root / f"keep{self.number}", 1))
        return out

    def quantize(self, kind, tensors=(), **inputs):
        params = {"type": kind, "tensors": [list(t) for t in tensors], "dropped": []}
        return self.run(quantize, params, gguf=inputs.pop("base", self.gguf), **inputs)

    def types(self, folder):
        return {t[0]: t[1] for t in read_layout(folder / "model.gguf")["tensors"]}
