"""`doit verify`, `doit gc` and `doit du`: the cache as a whole."""

from __future__ import annotations

from pathlib import Path

from sintra.store import maintenance, usage
from sintra.store.store import Store


def verify_cache(root: Path, store: Store, full: bool) -> bool:
    """Rehash what has changed, or all of it. Returns whether everything is sound."""
    return maintenance.verify_cache(root, store, full)


def collect_garbage(
    root: Path, store: Store, dry_run: bool, older: str, max_size: str, pin: str, unpin: str
) -> None:
    """Delete what no study needs, or pin or unpin a study. Raises UserError."""
    if pin or unpin:
        maintenance.pin_study(store, pin or unpin, bool(pin))
    else:
        maintenance.collect_garbage(root, store, dry_run, older, max_size)


def show_usage(store: Store, format: str) -> None:
    """Print what the cache is full of. Raises UserError."""
    usage.print_usage(store, format)
