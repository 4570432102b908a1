"""Name the variants of a study for people: each by what it is, no two alike."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

from sintra.build.graph import Graph
from sintra.build.step import Step
from sintra.config.texts import ROLES
from sintra.core.artifact import Artifact
from sintra.core.recipe import Recipe, unique_names, variant_name, variant_slug
from sintra.core.types import Proposal
from sintra.formats.gguf.mix_bits import Tensors, mix_bits, tensors_of
from sintra.store.store import Store
from sintra.study.round_files import Round

NO_MARKS = str.maketrans("", "", "(),")  # that have no place in the name of a step


def study_names(graph: Graph, store: Store, rounds: Iterable[Round]) -> dict[Recipe, str]:
    """Return the name of each recipe that the rounds propose, in their order."""
    first: dict[Recipe, Proposal] = {}
    for each in rounds:
        for proposal in each.proposals:
            first.setdefault(proposal.recipe, proposal)
    tensors = original_tensors(graph, store) if any(map(is_mix, first)) else ()
    return unique_names(
        {r: variant_name(r, recipe_bits(r, tensors), p.probe) for r, p in first.items()}
    )


def original_tensors(graph: Graph, store: Store) -> Tensors:
    """Return the tensors of the 16-bit GGUF; () while there is none."""
    outcome = graph.convert().outcome(store)
    if not isinstance(outcome, Artifact):
        return ()
    return tensors_of(store.read_json(outcome, "layout.json"))


def is_mix(recipe: Recipe) -> bool:
    """Return whether a recipe's name holds its bits per weight."""
    return recipe.format == "gguf" and recipe.complete and not recipe.uniform


def recipe_bits(recipe: Recipe, tensors: Tensors) -> float | None:
    """Return a mix's bits per weight; None for all else, and where they aren't known."""
    if tensors and is_mix(recipe):
        with contextlib.suppress(KeyError, ZeroDivisionError):
            return mix_bits(recipe, tensors)
    return None


def step_parts(model: str, names: Mapping[Recipe, str]) -> dict[str, str]:
    """Return what people read in the place of parts of steps' names, the longest part first.

    Only parts that hold a digest are there: the names of all other steps say what they are about.
    """
    parts = {
        f"{model}-{variant_slug(recipe)}": f"{model}-{name.translate(NO_MARKS).replace(' ', '-')}"
        for recipe, name in names.items()
        if recipe.format == "gguf" and recipe.tensors and not recipe.uniform
    }
    return {part: parts[part] for part in sorted(parts, key=len, reverse=True)}


def step_titles(steps: Iterable[Step], model: str, names: Mapping[Recipe, str]) -> dict[str, str]:
    """Return what people read of each step on a terminal: what is done, and to which variant."""
    slugs = {variant_slug(recipe): name for recipe, name in names.items()}
    longest_first = sorted(slugs.items(), key=lambda item: len(item[0]), reverse=True)
    return {
        step.name: f"{step.plugin.title or step.stage.capitalize()}: "
        f"{_label_words(step.label, model, longest_first)}"
        for step in steps
    }


def _label_words(label: str, model: str, slugs: Iterable[tuple[str, str]]) -> str:
    """Return a step's label in words. slugs: (slug, name) of each variant, longest slug first."""
    rest = label.removeprefix(f"{model}-")
    for slug, name in slugs:
        if rest == slug or rest.startswith(f"{slug}-"):
            return f"{name}{_text_words(rest.removeprefix(slug))}"
    return f"{model}{_text_words(label.removeprefix(model))}" if label != rest else label


def _text_words(suffix: str) -> str:
    """Return the end of a label, such as `-search`, in words."""
    words = suffix.strip("-").replace("-", " ")
    return f", {words}{' text' if words in ROLES else ''}" if words else ""


def readable_step(name: str, parts: Mapping[str, str]) -> str:
    """Return a step's name as people read it. parts: of `step_parts`."""
    for part, words in parts.items():
        name = name.replace(part, words)
    return name
