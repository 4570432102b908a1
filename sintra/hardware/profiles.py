"""The device profiles of conf/hardware as plain data, without composing a study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sintra.config.compose import conf_dirs, names


def load(root: Path, name: str) -> dict[str, Any]:
    """A profile's YAML; of folders that both have it, the first (ours) wins, as in Hydra."""
    import yaml

    for folder in conf_dirs(root):
        path = folder / "hardware" / f"{name}.yaml"
        if path.is_file():
            return dict(yaml.safe_load(path.read_text()))
    raise KeyError(name)


def every(root: Path) -> dict[str, dict[str, Any]]:
    """All profiles by name."""
    return {name: load(root, name) for name in sorted(names(root, "hardware"))}


def bandwidths(root: Path) -> dict[str, float]:
    """Theoretical memory bandwidth in bytes/s by profile."""
    return {
        n: float(p["bandwidth_gbs"]) * 1e9 for n, p in every(root).items() if p.get("bandwidth_gbs")
    }
