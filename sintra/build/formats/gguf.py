"""GGUF: quantized, assembled, refined and polished files, run by llama.cpp."""

from __future__ import annotations

from dataclasses import asdict, replace

from sintra.build.graph import Graph
from sintra.build.step import Step, Variant
from sintra.config.study import Study
from sintra.core.format import Format
from sintra.core.recipe import Recipe
from sintra.core.stage import Params

FILL_S = 180.0  # seconds that filling the cache may take, where nobody asked for it


def make(graph: Graph, recipe: Recipe) -> Step:
    """Return the step that makes a variant's file.

    A mix of types is put together from the uniform files of its types.
    """
    if recipe.polish:
        return polish(graph, recipe)
    if recipe.refine:
        return refine(graph, recipe)
    if parts := recipe.uniform_parts():
        mix = {"type": recipe.type, "tensors": [list(t) for t in recipe.tensors]}
        files = {part.tensors[0][1]: graph.quantize(part) for part in parts}
        return graph.step("assemble", graph.label(recipe), mix, files)
    params: Params = {"type": recipe.type, "tensors": [list(t) for t in recipe.tensors]}
    inputs = {"gguf": graph.base(recipe)}
    if recipe.importance:
        inputs["importance"] = graph.curvature_of(recipe)
        params["dropped"] = list(recipe.drop)
    if recipe.rounding == "compensated":
        inputs["curvature"] = graph.curvature_of(recipe)
        params |= {"dropped": list(recipe.drop), "rounding": recipe.rounding}
    return graph.step("quantize", graph.label(recipe), params, inputs)


def refine(graph: Graph, recipe: Recipe) -> Step:
    """Return the step that rounds a variant again, block after block: the same layout."""
    probe = graph.study.probe
    params = {
        "tokens": probe.refine_tokens,
        "context": probe.context,
        "random": probe.calibration_random,
        "steps": probe.refine_steps,
    }
    inputs = finishing_inputs(graph, recipe, replace(recipe, refine=False))
    return graph.step("refine", graph.label(recipe), params, inputs)


def polish(graph: Graph, recipe: Recipe) -> Step:
    """Return the step that tunes a variant end to end: the same layout."""
    probe = graph.study.probe
    params = {
        "tokens": probe.polish_tokens,
        "context": probe.context,
        "epochs": probe.polish_epochs,
        "seed": graph.study.seed,
    }
    inputs = finishing_inputs(graph, recipe, replace(recipe, polish=False))
    return graph.step("polish", graph.label(recipe), params, inputs)


def finishing_inputs(graph: Graph, recipe: Recipe, before: Recipe) -> dict[str, Step]:
    """Return what a file is improved from: itself, the original in both forms, text."""
    return {
        "gguf": graph.quantize(before),
        "source": graph.base(recipe),
        "model": graph.checkpoint_of(recipe),
        "text": graph.text("calibration"),
    }


def measure(graph: Graph, recipe: Recipe, level: str) -> Variant:
    """Return a variant's steps at a level.

    "build" makes the file; "screen" and "search" rank it; "report" decides, and adds the second
    text, speed, memory, a board's measurements and the plugins' steps.
    """
    file = graph.quantize(recipe)
    if level == "build":
        if not recipe.complete:
            return Variant(file)
        sensitivity = graph.sensitivity() if graph.by_gradient else None
        return Variant(file, distortion=graph.distortion(recipe), sensitivity=sensitivity)
    quality = quality_step(graph, recipe, level)
    tasks = graph.tasks_of(recipe, level)
    if level != "report":
        return Variant(file, quality, tasks=tasks)
    speed, memory = speed_params(graph, recipe), memory_params(graph, recipe)
    on_board = graph.speed_sizes() | kv_params(recipe)  # a board's cache isn't filled
    label, inputs = graph.label(recipe), {"gguf": file}
    return Variant(
        file,
        quality,
        graph.step("speed", label, speed, inputs),
        graph.step("memory", label, memory, inputs),
        quality_step(graph, recipe, "second") if "second" in graph.texts else None,
        tasks=tasks,
        extra=graph.extra(recipe),
        board=board_steps(graph, recipe, on_board, memory),
    )


def quality_step(graph: Graph, recipe: Recipe, level: str) -> Step:
    """Return the step that compares a variant with the baseline on a text."""
    prefix = {"prefix": "second_"} if level == "second" else {}
    params = {"seed": graph.study.seed} | prefix | kv_params(recipe)
    inputs = {"gguf": graph.quantize(recipe), "baseline": graph.baseline(level)}
    return graph.step("quality", f"{graph.label(recipe)}-{level}", params, inputs)


def kv_params(recipe: Recipe) -> Params:
    """Return the type of the KV cache, where it isn't the usual one."""
    return {} if recipe.kv == "f16" else {"kv": recipe.kv}


def speed_params(graph: Graph, recipe: Recipe) -> Params:
    """Return the sizes of the speed probe, and how the cache is filled."""
    return graph.speed_sizes() | kv_params(recipe) | depth_params(graph.study)


def depth_params(study: Study) -> Params:
    """Return the depths of the speed probe: the user's own, or the context within FILL_S."""
    depths = sorted(set(study.probe.depth) - {0})
    if not study.probe.depth:
        return {"depth": [study.context], "fill_s": FILL_S}
    return {"depth": depths} if depths else {}


def memory_params(graph: Graph, recipe: Recipe) -> Params:
    """Return the context of the memory probe, and its limit where the goal enforces one, bytes."""
    params: Params = {"context": graph.study.context} | kv_params(recipe)
    if graph.study.goal.enforce_memory:
        params["limit"] = graph.study.hardware.usable_bytes
    return params


def board_steps(graph: Graph, recipe: Recipe, speed: Params, memory: Params) -> tuple[Step, ...]:
    """Return both probes on the study's board: whether the variant fits, then its speed."""
    board, inputs = graph.study.board, {"gguf": graph.quantize(recipe)}
    if not board:
        return ()
    label, hints = graph.label(recipe), {"device": asdict(graph.study.device)}
    fits = graph.step("device_memory", label, memory | board.params, inputs, hints)
    after = inputs | {"memory": fits}  # a new dictionary: the first step keeps its own
    return fits, graph.step("device_speed", label, speed | board.params, after, hints)


FORMAT = Format("gguf", "llama.cpp", make, measure)
