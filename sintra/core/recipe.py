"""How a variant is made: a frozen value, its slug, and the name that people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, NotRequired, TypedDict, cast

from sintra.core.canonical import canonical, sha256

Rounding = Literal["nearest", "compensated"]
GIVEN = "given_"  # begins the type of a checkpoint that exists; its digest follows
EVERY_MATRIX = ".*"  # the pattern after which nothing is left to the file type
# Tensor type -> the file type that names a file most of whose matrices have it, where the names
# differ. llama.cpp writes no file of the type NVFP4 itself.
FILE_TYPES = {
    "Q3_K": "Q3_K_M",
    "Q4_K": "Q4_K_M",
    "Q5_K": "Q5_K_M",
    "MXFP4": "MXFP4_MOE",
    "NVFP4": "Q4_0",
}


class RecipeJson(TypedDict):
    """A recipe in round files and result.json; the fields are those of `Recipe`."""

    type: str
    importance: bool
    drop: tuple[int, ...]
    tensors: tuple[tuple[str, str], ...]
    rounding: Rounding
    kv: str
    format: NotRequired[str]  # where it isn't gguf
    refine: NotRequired[bool]  # where it is true
    polish: NotRequired[bool]  # where it is true
    no_attention: NotRequired[tuple[int, ...]]  # where there are any


LATER_FIELDS = (("format", "gguf"), ("refine", False), ("polish", False), ("no_attention", ()))


@dataclass(frozen=True)
class Recipe:
    """How a variant is made from a converted model; equal recipes are equal values."""

    type: str  # a llama.cpp file type, or bits and group size (w4g128) in other formats
    importance: bool = False  # whether the importance matrix is used
    drop: tuple[int, ...] = ()  # numbers of the blocks that are left out, ascending
    tensors: tuple[tuple[str, str], ...] = ()
    """Pairs of a regular expression and a tensor type: the first that matches a tensor's name
    decides, and what none matches has the file type's own choice."""
    rounding: Rounding = "nearest"  # of integers: the nearest grid point, or see stages.rounding
    kv: str = "f16"  # type of the KV cache that it is to be run with (core.kv_cache)
    format: str = "gguf"  # of its file: a name in core.format
    refine: bool = False  # whether each block is rounded again to fit the original (stages.refine)
    polish: bool = False  # whether scales are tuned end to end after that (stages.polish)
    no_attention: tuple[int, ...] = ()  # blocks whose attention is left out, ascending

    @staticmethod
    def of(data: Mapping[str, Any]) -> Recipe:
        """Return the recipe of its JSON form. Raises KeyError, TypeError, ValueError."""
        tensors = tuple((str(p), str(t)) for p, t in data.get("tensors", ()))
        return Recipe(
            data["type"],
            bool(data.get("importance")),
            block_numbers(data.get("drop", ())),
            tensors,
            data.get("rounding", "nearest"),
            data.get("kv", "f16"),
            data.get("format", "gguf"),
            bool(data.get("refine")),
            bool(data.get("polish")),
            block_numbers(data.get("no_attention", ())),
        )

    def as_json(self) -> RecipeJson:
        """Return the JSON form for round files, results and names.

        Fields that recipes didn't always have are left out where they say nothing, so that old
        names and digests stay.
        """
        fields = {k: v for k, v in asdict(self).items() if (k, v) not in LATER_FIELDS}
        return cast("RecipeJson", fields)

    @property
    def file(self) -> Recipe:
        """Return the recipe of its file, which is the same for every KV cache."""
        return replace(self, kv="f16")

    @property
    def complete(self) -> bool:
        """Tell whether the patterns leave nothing to the file type."""
        return bool(self.tensors) and self.tensors[-1][0] == EVERY_MATRIX

    @property
    def uniform(self) -> bool:
        """Tell whether every matrix has the same type."""
        return self.complete and len(self.tensors) == 1

    @property
    def finished(self) -> bool:
        """Tell whether it is more than put together from what other variants are made of."""
        return self.refine or self.polish

    @property
    def cut(self) -> bool:
        """Tell whether anything of the original is left out."""
        return bool(self.drop or self.no_attention)

    @property
    def cut_labels(self) -> tuple[str, ...]:
        """Return what is left out, for names: `drop3`, `noattn1_2`."""
        pairs = (("drop", self.drop), ("noattn", self.no_attention))
        return tuple(word + "_".join(map(str, blocks)) for word, blocks in pairs if blocks)

    @property
    def cut_words(self) -> str:
        """Return what is left out, in words: `block 3 and the attention of blocks 1, 2`."""
        pairs = (("", self.drop), ("the attention of ", self.no_attention))
        return " and ".join(
            f"{of}block{'s' * (len(b) > 1)} {', '.join(map(str, b))}" for of, b in pairs if b
        )

    def uniform_parts(self) -> tuple[Recipe, ...]:
        """Return the uniform recipes whose files make up a mix; empty where there are none."""
        if not self.complete or self.uniform or self.cut:
            return ()
        types = sorted({t for _, t in self.tensors})
        return tuple(
            replace(self, type=FILE_TYPES.get(t, t), tensors=((EVERY_MATRIX, t),)) for t in types
        )


def block_numbers(value: object) -> tuple[int, ...]:
    """Return numbers of blocks, ascending, each once. Raises ValueError for anything else."""
    if not isinstance(value, list | tuple) or not all(type(n) is int and n >= 0 for n in value):
        raise ValueError(f"{value!r} are not numbers of blocks")
    return tuple(sorted(set(value)))


def variant_slug(recipe: Recipe) -> str:
    """Return a short, unique name of a variant's steps and files. People read `variant_name`."""
    if recipe.format != "gguf":
        return f"{recipe.format}-{recipe.type}"
    parts = [_plain_slug(replace(recipe, kv="f16", refine=False, polish=False))]
    parts += ["refined"] if recipe.refine else []
    parts += ["polished"] if recipe.polish else []
    parts += [f"kv_{recipe.kv.replace('/', '-')}"] if recipe.kv != "f16" else []
    return "-".join(parts)


def _plain_slug(recipe: Recipe) -> str:
    """Return the slug of a GGUF before it is finished: of a mix, a uniform file, or a preset."""
    if recipe.uniform:
        return "-".join([*_uniform_slug(recipe), *recipe.cut_labels])
    if recipe.complete:
        return f"mix-{_short_digest(recipe.as_json())}"
    patterns = [_short_digest(recipe.tensors)] if recipe.tensors else []
    return "-".join([*_preset_slug(recipe), *recipe.cut_labels, *patterns])


def _uniform_slug(recipe: Recipe) -> list[str]:
    """Return the words of a file of one type, as a rule with matrix and compensated."""
    words = [f"all-{recipe.tensors[0][1]}"]
    words += [] if recipe.importance else ["plain"]
    return words + ([recipe.rounding] if recipe.rounding == "nearest" else [])


def _preset_slug(recipe: Recipe) -> list[str]:
    """Return the words of a stock preset, as a rule without matrix and rounded to nearest."""
    words = [recipe.type]
    words += ["imatrix"] if recipe.importance else []
    return words + ([recipe.rounding] if recipe.rounding != "nearest" else [])


def _short_digest(value: object) -> str:
    return sha256(canonical(value))[:8]


def variant_name(recipe: Recipe, bits: float | None = None, probe: str = "") -> str:
    """Return what people read: `Q2_K uniform, refined`, `mix 4.31 bpw`, `llama.cpp Q4_K_M`.

    bits: bits per weight of a mix, where they are known; probe: which tensors it measures the
    sensitivity of, where it is made for that. Several mixes may share a name: `unique_names`.
    """
    if recipe.format != "gguf":
        given = recipe.type.startswith(GIVEN)  # a checkpoint that exists: the rest is a digest
        return f"{recipe.format.upper()} {'as given' if given else recipe.type}"
    if probe:
        words = [f"probe {probe}"]
    elif recipe.uniform:
        words = [f"{recipe.tensors[0][1]} uniform", *_rounding_words(recipe)]
    elif recipe.complete:
        words = ["mix" if bits is None else f"mix {bits:.2f} bpw", *_rounding_words(recipe)]
    else:
        words = [f"llama.cpp {recipe.type}", *_preset_words(recipe)]
    return ", ".join([*words, *_later_words(recipe)])


def _rounding_words(recipe: Recipe) -> list[str]:
    """Return how integers were chosen, where not with matrix and error-compensated."""
    words = [] if recipe.importance else ["no imatrix"]
    return words + (["nearest"] if recipe.rounding == "nearest" else [])


def _preset_words(recipe: Recipe) -> list[str]:
    """Return what tells a file from the stock preset."""
    words = ["imatrix"] if recipe.importance else []
    words += [recipe.rounding] if recipe.rounding != "nearest" else []
    return words + (["own types"] if recipe.tensors else [])


def _later_words(recipe: Recipe) -> list[str]:
    """Return what was left out, done to the whole file, or is different when it runs."""
    words = [f"without {recipe.cut_words}"] if recipe.cut else []
    words += ["refined"] if recipe.refine else []
    words += ["polished"] if recipe.polish else []
    return words + ([f"KV cache {recipe.kv}"] if recipe.kv != "f16" else [])


def unique_names(names: Mapping[Recipe, str]) -> dict[Recipe, str]:
    """Return the names with " (2)", " (3)" behind those that an earlier recipe has, too."""
    counts, unique = Counter[str](), {}
    for recipe, name in names.items():
        counts[name] += 1
        unique[recipe] = name if counts[name] == 1 else f"{name} ({counts[name]})"
    return unique
