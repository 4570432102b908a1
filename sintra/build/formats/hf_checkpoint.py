"""GPTQ and AWQ checkpoints: made by libraries of their own, run by transformers."""

from __future__ import annotations

from sintra.build.graph import Graph
from sintra.build.step import Step, Variant
from sintra.config.study import Study
from sintra.core.format import Format, format_of
from sintra.core.recipe import GIVEN, Recipe
from sintra.core.stage import Params


def make(graph: Graph, recipe: Recipe) -> Step:
    """Return the step that makes a checkpoint, from the tokens that the curvature is taken over."""
    label = f"{graph.study.model}-{recipe.type}"
    inputs = {"model": graph.fetch(), "gguf": graph.convert()}
    if recipe.type.startswith(GIVEN) and graph.checkpoint:
        inputs["given"] = graph.import_step(graph.checkpoint, recipe.type)
        return graph.step(recipe.format, label, {"method": "given"}, inputs)
    probe, compress = graph.study.probe, graph.study.compress
    bits, _, group = recipe.type.removeprefix("w").partition("g")
    params: Params = {
        "method": recipe.format,
        "bits": int(bits),
        "group": int(group),
        "tokens": probe.calibration_tokens,
        "context": probe.context,
    }
    if compress.max_ram_gb:  # whether it can be made in less memory is another question
        params["max_ram_gb"] = compress.max_ram_gb
    inputs |= {
        "text": graph.text("calibration"),
        "environment": graph.environment(environment_of(recipe)),
    }
    return graph.step(recipe.format, label, params, inputs, {"timeout_s": compress.timeout_s})


def measure(graph: Graph, recipe: Recipe, level: str) -> Variant:
    """Return a checkpoint's steps at a level: "report" adds the second text, speed and memory."""
    file, name = graph.quantize(recipe), environment_of(recipe)
    quality = quality_step(graph, recipe, level)
    if level != "report":
        return Variant(file, quality)
    label = graph.label(recipe)
    inputs = {"model": file, "environment": graph.environment(name)}
    speed = {"environment": name} | graph.speed_sizes()
    memory = {"environment": name, "context": graph.study.context}
    return Variant(
        file,
        quality,
        graph.step("speed_hf", label, speed, inputs),
        graph.step("memory_hf", label, memory, inputs),
        quality_step(graph, recipe, "second") if "second" in graph.texts else None,
    )


def quality_step(graph: Graph, recipe: Recipe, level: str) -> Step:
    """Return the step that compares a checkpoint with llama.cpp's baseline on a text."""
    name = environment_of(recipe)
    params = {"environment": name, "seed": graph.study.seed}
    params |= {"prefix": "second_"} if level == "second" else {}
    inputs = {
        "model": graph.quantize(recipe),
        "environment": graph.environment(name),
        "agreement": graph.agreement(name),
        "baseline": graph.baseline(level),
    }
    return graph.step("quality_hf", f"{graph.label(recipe)}-{level}", params, inputs)


def environment_of(recipe: Recipe) -> str:
    """Return the name of the libraries that make and read a recipe's format."""
    return format_of(recipe.format).environment


def new_kind(study: Study) -> str:
    """Return the type of a checkpoint that is to be made: bits and group size."""
    return f"w{study.compress.bits}g{study.compress.group_size}"


def existing_kind(study: Study) -> str:
    """Return the type of the checkpoint that exists already, else of one that is to be made."""
    digest = study.compress.checkpoint
    return f"{GIVEN}{digest[:8]}" if digest else new_kind(study)


GPTQ = Format("gptq", "transformers", make, measure, "compressor", new_kind)
AWQ = Format("awq", "transformers", make, measure, "compressor", new_kind)
GPTQ_NATIVE = Format("gptq_native", "transformers", make, measure, "gptq", existing_kind)
