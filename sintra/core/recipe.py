"""How a variant is made: a frozen value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from sintra.core.canonical import canonical, sha256

Rounding = Literal["nearest", "compensated"]
# The file type that names a file most of whose matrices are of a tensor type, where the names
# differ.
FILE_TYPES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def blocks(given: Any) -> tuple[int, ...]:
    """Numbers of blocks, ascending, each once. Raises ValueError for anything else."""
    if not isinstance(given, list | tuple) or not all(type(n) is int and n >= 0 for n in given):
        raise ValueError(f"{given!r} are no numbers of blocks")
    return tuple(sorted(set(given)))


@dataclass(frozen=True)
class Recipe:
    """How a variant is made from a converted model; equal recipes are equal values. type: a
    llama.cpp file type; tensors: (regular expression, tensor type) pairs, the first match wins, and
    what none matches has the file type's own choice; importance: whether the importance matrix is
    used; drop: blocks left out, ascending; rounding: of the integers, to the nearest grid point or
    compensated (see sintra.stages.rounding); kv: the type of the KV cache that it is to be run with;
    format: of its file (sintra.core.format): others than gguf have only a type, bits and group size as
    in w4g128; refine: whether the finished file is rounded anew, block after block
    (sintra.stages.refine); polish: whether it is tuned end to end after that
    (sintra.stages.polish); no_attention: blocks whose attention is left out.
    """

    type: str
    importance: bool = False
    drop: tuple[int, ...] = ()
    tensors: tuple[tuple[str, str], ...] = ()
    rounding: Rounding = "nearest"
    kv: str = "f16"
    format: str = "gguf"
    refine: bool = False
    polish: bool = False
    no_attention: tuple[int, ...] = ()

    @property
    def file(self) -> Recipe:
        """What its file is made of: the same for every KV cache."""
        return replace(self, kv="f16")

    @property
    def name(self) -> str:
        """A short, readable, unique name, fit for a task name and a file name."""
        if self.format != "gguf":
            return f"{self.format}-{self.type}"
        if self.kv != "f16":
            return f"{self.file.name}-kv_{self.kv}"
        if self.polish:
            return f"{replace(self, polish=False).name}-polished"
        if self.refine:
            return f"{replace(self, refine=False).name}-refined"
        if self.complete and not self.uniform:
            return "mix-" + sha256(canonical(self.as_json()))[:8]
        if self.uniform:  # what planners of mixes make: with importance matrix, compensated
            parts = [f"all-{self.tensors[0][1]}", *(["plain"] if not self.importance else [])]
            parts += [self.rounding] if self.rounding == "nearest" else []
        else:
            parts = [self.type, *(["imatrix"] if self.importance else [])]
            parts += [self.rounding] if self.rounding != "nearest" else []
        parts += self.gaps
        if self.tensors and not self.uniform:
            parts.append(sha256(canonical(self.tensors))[:8])
        return "-".join(parts)

    @property
    def complete(self) -> bool:
        """Whether the patterns leave nothing to the file type."""
        return bool(self.tensors) and self.tensors[-1][0] == ".*"

    @property
    def uniform(self) -> bool:
        """Whether every matrix has the same type."""
        return self.complete and len(self.tensors) == 1

    def parts(self) -> tuple[Recipe, ...]:
        """The uniform recipes that a mix can be put together from; empty where it can't."""
        if not self.complete or self.uniform or self.cut:
            return ()
        kinds = sorted({t for _, t in self.tensors})
        return tuple(replace(self, type=FILE_TYPES.get(t, t), tensors=((".*", t),)) for t in kinds)

    @staticmethod
    def of(data: dict[str, Any]) -> Recipe:
        """From its JSON form. Raises KeyError, TypeError, ValueError."""
        tensors = tuple((str(p), str(t)) for p, t in data.get("tensors", ()))
        return Recipe(
            data["type"],
            bool(data.get("importance")),
            blocks(data.get("drop", ())),
            tensors,
            data.get("rounding", "nearest"),
            data.get("kv", "f16"),
            data.get("format", "gguf"),
            bool(data.get("refine")),
            bool(data.get("polish")),
            blocks(data.get("no_attention", ())),
        )

    def as_json(self) -> dict[str, Any]:
        """For round files, results and names; a plain GGUF's is what it was before there were
        formats and finishing.
        """
        plain = (("format", "gguf"), ("refine", False), ("polish", False), ("no_attention", ()))
        return {k: v for k, v in asdict(self).items() if (k, v) not in plain}

    @property
    def cut(self) -> bool:
        """Whether anything of the original is left out."""
        return bool(self.drop or self.no_attention)

    @property
    def gaps(self) -> tuple[str, ...]:
        """What is left out, for names."""
        pairs = (("drop", self.drop), ("noattn", self.no_attention))
        return tuple(word + "_".join(map(str, blocks)) for word, blocks in pairs if blocks)

    @property
    def left_out(self) -> str:
        """What is left out, in words."""
        pairs = (("", self.drop), ("the attention of ", self.no_attention))
        return " and ".join(
            f"{of}block{'s' * (len(b) > 1)} {', '.join(map(str, b))}" for of, b in pairs if b
        )

    @property
    def finished(self) -> bool:
        """Whether it is more than put together from what other variants are made of."""
        return self.refine or self.polish
