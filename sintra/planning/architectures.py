"""What conf/arch says of an architecture: knowledge in sentences, blocks that lose least."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from sintra.config.compose import conf_dirs


class ArchitectureYaml(TypedDict):
    """A file of conf/arch."""

    knowledge: list[str]  # sentences
    pockets: NotRequired[list[float]]  # depths from 0 to 1 at which blocks lose least


def knowledge(root: Path, architecture: str) -> tuple[str, ...]:
    """Return what is known of an architecture, in sentences."""
    return tuple(line for file in _read_files(root, architecture) for line in file["knowledge"])


def pockets(root: Path, architecture: str) -> tuple[float, ...]:
    """Return the depths, from 0 to 1, at which blocks of an architecture lose least."""
    files = _read_files(root, architecture)
    return tuple(float(depth) for file in files for depth in file.get("pockets", ()))


def _read_files(root: Path, architecture: str) -> Iterator[ArchitectureYaml]:
    """Yield the files of an architecture, the user's own behind the project's."""
    import yaml  # not on the no-op path

    for folder in conf_dirs(root):
        path = folder / "arch" / f"{architecture}.yaml"
        if path.is_file():
            yield cast(ArchitectureYaml, yaml.safe_load(path.read_text()))
