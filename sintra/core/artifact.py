"""What goes into and comes out of a step: pinned sources, trees of files, failures.

They stand apart from the other types, since a build with nothing left to do needs only these.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from sintra.core.canonical import canonical, sha256

PERMISSION_NAME = "sintra.trust_remote_code"  # the file that lets a model's own code be run
GGUF_FILE = "model.gguf"  # what a model's file is called in every artifact


@dataclass(frozen=True)
class Source:
    """A pinned model or text: what it is by content, and (outside every key) where to get it.

    kind "folder" or "file": `digest` is the tree digest and `locator` the path; kind "hub":
    `digest` is the 40-hex commit and `locator` the repository id; kind "task": a task's YAML
    (`locator`) with its data, by the digest of all; "gguf": one file, as "file"; "own": a text that
    the model writes, by the digest of what it depends on beside the model; "wikitext": the part
    `locator` of wikitext-2-raw, by the archive's digest and that part.
    """

    kind: Literal["folder", "gguf", "file", "hub", "task", "own", "wikitext"]
    digest: str
    locator: str


@dataclass(frozen=True)
class File:
    """One file of an artifact: its path in the tree (posix), size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A tree of files; its digest is over the sorted (path, size, SHA-256) triples."""

    files: tuple[File, ...]

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the tree."""
        return sha256(
            canonical(
                [[f.path, f.size, f.sha256] for f in sorted(self.files, key=lambda f: f.path)]
            )
        )

    def holds(self, names: Iterable[str]) -> bool:
        """Return whether all these files are in it; a name that ends in "/" is a folder."""
        paths = [file.path for file in self.files]
        return all(
            any(p.startswith(name) for p in paths) if name.endswith("/") else name in paths
            for name in names
        )

    @property
    def model(self) -> File:
        """What is delivered of a variant: its model.gguf, or its folder model/ as one, with all
        bytes and the tree's digest.
        """
        whole = next((f for f in self.files if f.path == GGUF_FILE), None)
        if whole:
            return whole
        tree = Artifact(tuple(f for f in self.files if f.path.startswith("model/")))
        return File("model", sum(f.size for f in tree.files), tree.digest)


@dataclass(frozen=True)
class Failure:
    """A step that can't work: a result too. `log` is the tail of what the worker wrote."""

    kind: str
    message: str
    log: str = ""
