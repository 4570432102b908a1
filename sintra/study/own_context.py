"""What context a pinned model was trained for: the most that it can be served with."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sintra.config.options import ModelConf
from sintra.core.artifact import Source
from sintra.formats.checkpoint.config_values import trained_context
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.gguf.layout import read_context
from sintra.store.store import Store
from sintra.study.pinning import Digests, hub_context


def own_context(pin: Source | None, model: ModelConf, store: Store, digests: Digests) -> int:
    """Return the context that a model was trained for, tokens; 0 where that is not known.

    Of a hub model it is known once its commit is recorded.
    """
    if pin is None or pin.kind == "hub":
        return hub_context(store, model.source, model.revision)
    path = Path(pin.locator)
    if pin.kind == "gguf":
        return int(digests.remember(path, "context", partial(gguf_context, path)) or 0)
    return trained_context(read_object(path / "config.json"))


def gguf_context(path: Path) -> str:
    """Return the context that a GGUF's model was trained for as text, as digests keep it."""
    return str(read_context(path))
