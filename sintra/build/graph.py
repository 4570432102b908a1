"""Recipes become steps. A step is a value; its key is known as soon as its inputs' contents are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from sintra.build.step import Step, Variant
from sintra.core import plugins
from sintra.core.format import FORMATS
from sintra.core.recipe import Recipe, variant_name
from sintra.core.types import SCREEN, Source, Study
from sintra.formats.runtime.environments import wanted

MARK = "~"


class Graph:
    """Builds the steps of a study; equal steps are the same object, so that shared prefixes run
    once.
    """

    def __init__(
        self,
        study: Study,
        source: Source,
        texts: dict[str, Source],
        root: Path = Path(),
        tasks: dict[str, Source | None] | None = None,
        given: Source | None = None,
    ) -> None:
        self.study, self.root, self.given = study, root, given
        self.tasks = tasks or {}
        self.source = source
        self.texts = texts
        self.steps: dict[str, Step] = {}

    def step(
        self,
        stage: str,
        label: str,
        params: dict[str, Any],
        inputs: dict[str, Step] | None = None,
        hints: dict[str, Any] | None = None,
    ) -> Step:
        """The step of this name, made when it is new. What is measured on another machine says on
        which.
        """
        if self.study.measured_on and plugins.load_step(stage).platform:
            params = params | {"machine": self.study.measured_on}
        made = Step(stage, label, params, inputs or {}, hints or {})
        return self.steps.setdefault(made.name, made)

    def fetch(self) -> Step:
        """The pinned model's files."""
        return self._import(
            self.source, self.study.model, bool(self.study.model_options.get("trust_remote_code"))
        )

    def _import(self, source: Source, label: str, code: bool = False) -> Step:
        params = {"kind": source.kind, "digest": source.digest} | ({"code": True} if code else {})
        return self.step("fetch", label, params, hints={"from": source.locator})

    def text(self, role: str) -> Step:
        """One of the texts."""
        mark = self.study.model.partition(MARK)[2]  # in a sweep over texts they'd share a name
        return self._import(self.texts[role], f"text-{role}{MARK if mark else ''}{mark}")

    def toolchain(self) -> Step:
        """llama.cpp's converter."""
        from sintra.stages.tools import pinned

        return self.step("toolchain", "llama.cpp", pinned())

    def convert(self) -> Step:
        """The model in 16 bits as GGUF."""
        kind = self.study.model_options.get("convert", "f16")
        inputs = {"model": self.fetch(), "toolchain": self.toolchain()}
        return self.step("convert", self.study.model, {"type": kind}, inputs)

    def curvature(self) -> Step:
        """X'X of every linear layer over the calibration text, and the importance matrix, its
        diagonal.
        """
        probe = self.study.probe
        inputs = {"model": self.fetch(), "gguf": self.convert(), "text": self.text("calibration")}
        params = {
            "tokens": probe["calibration_tokens"],
            "context": probe["context"],
            "random": probe["calibration_random"],
        }
        return self.step("curvature", self.study.model, params, inputs)

    def base(self, recipe: Recipe) -> Step:
        """The 16-bit GGUF that a variant is made from: without what it leaves out."""
        if not recipe.cut:
            return self.convert()
        label = "-".join((self.study.model, *recipe.cut_labels))
        silent = {"no_attention": list(recipe.no_attention)} if recipe.no_attention else {}
        return self.step(
            "prune", label, {"drop": list(recipe.drop)} | silent, {"gguf": self.convert()}
        )

    def distortion(self, recipe: Recipe) -> Step:
        """What a variant's rounding did to each matrix."""
        inputs = {
            "gguf": self.quantize(recipe),
            "source": self.base(recipe),
            "curvature": self.curvature(),
        }
        return self.step(
            "distortion",
            f"{self.study.model}-{variant_name(recipe)}",
            {"dropped": list(recipe.drop)},
            inputs,
        )

    def quantize(self, recipe: Recipe) -> Step:
        """A variant's GGUF; a mix of types is put together from the uniform files of its types."""
        recipe = recipe.file
        if recipe.format != "gguf":
            return self.compressed(recipe)
        if recipe.finished:
            return self.polish(recipe) if recipe.polish else self.refine(recipe)
        if parts := recipe.uniform_parts():
            mix = {"type": recipe.type, "tensors": [list(t) for t in recipe.tensors]}
            files = {part.tensors[0][1]: self.quantize(part) for part in parts}
            return self.step("assemble", f"{self.study.model}-{variant_name(recipe)}", mix, files)
        base = self.base(recipe)
        params: dict[str, Any] = {"type": recipe.type, "tensors": [list(t) for t in recipe.tensors]}
        inputs = {"gguf": base}
        if recipe.importance:
            inputs["importance"] = self.curvature()
            params["dropped"] = list(recipe.drop)
        if recipe.rounding == "compensated":
            inputs["curvature"] = self.curvature()
            params |= {"dropped": list(recipe.drop), "rounding": recipe.rounding}
        return self.step("quantize", f"{self.study.model}-{variant_name(recipe)}", params, inputs)

    def environment(self, format: str) -> Step:
        """The libraries of a format; its artifact is their lock."""
        name = FORMATS[format].environment
        return self.step("environment", name, wanted(name, self.study.compress["python"]))

    def compressed(self, recipe: Recipe) -> Step:
        """A GPTQ or AWQ checkpoint, from the tokens that the curvature is taken over."""
        probe, options = self.study.probe, self.study.compress
        if recipe.type.startswith("given_") and self.given:
            inputs = {
                "model": self.fetch(),
                "gguf": self.convert(),
                "given": self._import(self.given, recipe.type),
            }
            return self.step(
                recipe.format, f"{self.study.model}-{recipe.type}", {"method": "given"}, inputs
            )
        bits, _, group = recipe.type.removeprefix("w").partition("g")
        params = {
            "method": recipe.format,
            "bits": int(bits),
            "group": int(group),
            "tokens": probe["calibration_tokens"],
            "context": probe["context"],
        }
        if options["max_ram_gb"]:  # whether it can be made in less room is another question
            params["max_ram_gb"] = options["max_ram_gb"]
        inputs = {"model": self.fetch(), "gguf": self.convert(), "text": self.text("calibration")}
        return self.step(
            recipe.format,
            f"{self.study.model}-{recipe.type}",
            params,
            inputs | {"environment": self.environment(recipe.format)},
            {"timeout_s": options["timeout_s"]},
        )

    def agreement(self, format: str) -> Step:
        """Whether a format's runtime and llama.cpp start from the same 16-bit model and tokens."""
        name = FORMATS[format].environment
        inputs = {
            "model": self.fetch(),
            "baseline": self.baseline("search"),
            "text": self.text("search"),
        }
        return self.step(
            "agreement",
            f"{self.study.model}-{name}",
            {"environment": name, "seed": self.study.seed},
            inputs | {"environment": self.environment(format)},
        )

    def foreign(self, recipe: Recipe, level: str) -> Variant:
        """The steps of a checkpoint, measured by transformers: at "report" also the second text,
        speed and memory.
        """
        made, probe, environment = (
            self.compressed(recipe),
            self.study.probe,
            FORMATS[recipe.format].environment,
        )
        label, seed = (
            f"{self.study.model}-{variant_name(recipe)}",
            {"environment": environment, "seed": self.study.seed},
        )
        held = {"model": made, "environment": self.environment(recipe.format)}
        scored = held | {"agreement": self.agreement(recipe.format)}
        quality = self.step(
            "quality_hf", f"{label}-{level}", seed, scored | {"baseline": self.baseline(level)}
        )
        if level != "report":
            return Variant(made, quality)
        second = None
        if "second" in self.texts:
            second = self.step(
                "quality_hf",
                f"{label}-second",
                seed | {"prefix": "second_"},
                scored | {"baseline": self.baseline("second")},
            )
        sizes = {
            "prompt": probe["speed_prompt"],
            "generate": probe["speed_generate"],
            "repeat": probe["speed_repeat"],
        }
        speed = self.step("speed_hf", label, {"environment": environment} | sizes, held)
        room = {"environment": environment, "context": probe["context"]}
        return Variant(made, quality, speed, self.step("memory_hf", label, room, held), second)

    def refine(self, recipe: Recipe) -> Step:
        """A variant's GGUF rounded anew, block after block: the same layout."""
        probe = self.study.probe
        inputs = self.finishing(recipe, replace(recipe, refine=False))
        params = {
            "tokens": probe["refine_tokens"],
            "context": probe["context"],
            "random": probe["calibration_random"],
            "steps": probe["refine_steps"],
        }
        return self.step("refine", f"{self.study.model}-{variant_name(recipe)}", params, inputs)

    def finishing(self, recipe: Recipe, before: Recipe) -> dict[str, Step]:
        """What a file is made better from: itself, the original in both forms, text."""
        text = self.text("calibration")
        return {
            "gguf": self.quantize(before),
            "source": self.base(recipe),
            "model": self.fetch(),
            "text": text,
        }

    def polish(self, recipe: Recipe) -> Step:
        """A variant's GGUF tuned end to end: the same layout."""
        probe = self.study.probe
        inputs = self.finishing(recipe, replace(recipe, polish=False))
        params = {
            "tokens": probe["polish_tokens"],
            "context": probe["context"],
            "epochs": probe["polish_epochs"],
            "seed": self.study.seed,
        }
        return self.step("polish", f"{self.study.model}-{variant_name(recipe)}", params, inputs)

    def baseline(self, level: str) -> Step:
        """The 16-bit model's log-probabilities over the search, the report or the second text, or a
        part of the first.
        """
        probe = self.study.probe
        tokens = probe["search_tokens"] // SCREEN if level == "screen" else probe[f"{level}_tokens"]
        params = {"context": probe["context"], "tokens": tokens, "top_k": probe["top_k"]}
        inputs = {
            "gguf": self.convert(),
            "text": self.text("search" if level == "screen" else level),
        }
        return self.step("baseline", f"{self.study.model}-{level}", params, inputs)

    def asked(self, recipe: Recipe, level: str) -> tuple[Step, ...]:
        """The tasks put to a variant: all items where it is decided; every other one while variants
        are ranked, where the goal has a limit on them.
        """
        limited = any(c.metric.startswith("task:") for c in self.study.goal.constraints)
        if level != "report" and not (level == "search" and limited):
            return ()
        return tuple(
            self.task(name, recipe, "all" if level == "report" else "half") for name in self.tasks
        )

    def task(self, name: str, recipe: Recipe | None, part: str) -> Step:
        """A task put to a variant, or to the 16-bit model (recipe None), which it is compared with."""
        probe, source = self.study.probe, self.tasks[name]
        params = {
            "name": name,
            "part": part,
            "context": probe["task_context"],
            "seed": self.study.seed,
        }
        params |= {"chat": True} if probe["task_chat"] else {}
        hints = {"run_code": probe["run_code"]}
        inputs = {"gguf": self.quantize(recipe) if recipe else self.convert()}
        if source:
            inputs["task"] = self._import(source, f"task-{name}")
        if recipe is None:
            return self.step("tasks", f"{self.study.model}-{name}-{part}", params, inputs, hints)
        inputs["baseline"] = self.task(name, None, part)
        cache = {} if recipe.kv == "f16" else {"kv": recipe.kv}
        return self.step(
            "tasks",
            f"{self.study.model}-{variant_name(recipe)}-{name}-{part}",
            params | cache,
            inputs,
            hints,
        )

    def variant(self, recipe: Recipe, level: str) -> Variant:
        """A recipe's steps at a level: "search" ranks; "report" decides and adds the second text,
        speed and memory.
        """
        if recipe.format != "gguf":
            return self.foreign(recipe, level)
        made, probe = self.quantize(recipe), self.study.probe
        label = f"{self.study.model}-{variant_name(recipe)}"
        cache = {} if recipe.kv == "f16" else {"kv": recipe.kv}
        if level == "build":
            return Variant(made, distortion=self.distortion(recipe) if recipe.complete else None)
        scored = {"gguf": made, "baseline": self.baseline(level)}
        quality = self.step(
            "quality", f"{label}-{level}", {"seed": self.study.seed} | cache, scored
        )
        asked = self.asked(recipe, level)
        if level in ("screen", "search"):
            return Variant(made, quality, tasks=asked)
        second, params = None, {"seed": self.study.seed, "prefix": "second_"} | cache
        if "second" in self.texts:
            second = self.step(
                "quality",
                f"{label}-second",
                params,
                {"gguf": made, "baseline": self.baseline("second")},
            )
        speed = {
            "prompt": probe["speed_prompt"],
            "generate": probe["speed_generate"],
            "repeat": probe["speed_repeat"],
        } | cache
        memory: dict[str, Any] = {"context": probe["context"]} | cache
        if self.study.goal.enforce_memory:
            memory["limit"] = self.study.hardware.usable_bytes
        return Variant(
            made,
            quality,
            self.step("speed", label, speed, {"gguf": made}),
            self.step("memory", label, memory, {"gguf": made}),
            second,
            tasks=asked,
            extra=self.extra(recipe),
            board=self.board(recipe, speed, memory),
        )

    def extra(self, recipe: Recipe) -> tuple[Step, ...]:
        """The stages and probes of plugins, put to a finished GGUF."""
        made, label = self.quantize(recipe), f"{self.study.model}-{variant_name(recipe)}"
        return tuple(self.step(name, label, {}, {"gguf": made}) for name in self.study.extra)

    def board(
        self, recipe: Recipe, speed: dict[str, Any], memory: dict[str, Any]
    ) -> tuple[Step, ...]:
        """The same two probes on the board, where the study has one: first whether it fits, then
        how fast it is.
        """
        device, inputs = self.study.device, {"gguf": self.quantize(recipe)}
        if not device:
            return ()
        label, hints = f"{self.study.model}-{variant_name(recipe)}", {"device": device["options"]}
        fits = self.step("device_memory", label, memory | device["asked"], inputs, hints)
        return fits, self.step(
            "device_speed", label, speed | device["asked"], inputs | {"memory": fits}, hints
        )
