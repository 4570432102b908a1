"""Turn recipes into steps: values whose key is known as soon as their inputs' contents are."""

from __future__ import annotations

from pathlib import Path

from sintra.build.step import Step, Variant
from sintra.config.study import Study
from sintra.core import plugins
from sintra.core.artifact import Source
from sintra.core.format import format_of
from sintra.core.recipe import Recipe, variant_slug
from sintra.core.stage import Hints, Params
from sintra.core.types import SCREEN
from sintra.formats.runtime.environments import environment_params
from sintra.stages.tools import toolchain_params

MARK = "~"
SURROGATE_PLANNERS = ("solver", "hybrid", "llm")  # that fit a model of the KLD to mixes
SENSITIVITY_WINDOWS = 12  # of the calibration text, for the backward pass


class Graph:
    """Build the steps of a study.

    Equal steps are the same object, so that shared prefixes run once.
    """

    def __init__(
        self,
        study: Study,
        source: Source,
        texts: dict[str, Source],
        root: Path = Path(),
        task_files: dict[str, Source | None] | None = None,
        checkpoint: Source | None = None,
    ) -> None:
        self.study = study
        self.source = source  # the pinned model
        self.texts = texts  # role -> pinned text
        self.root = root  # the project's folder
        self.task_files = task_files or {}  # name -> pinned task; None: one of lm-eval's own
        self.checkpoint = checkpoint  # a GPTQ checkpoint that exists already
        self.steps: dict[str, Step] = {}  # by name

    def step(
        self,
        stage: str,
        label: str,
        params: Params,
        inputs: dict[str, Step] | None = None,
        hints: Hints | None = None,
    ) -> Step:
        """Return the step of this name, made when it is new.

        What is measured on another machine says on which.
        """
        if self.study.measured_on and plugins.load_step(stage).platform:
            params = params | {"machine": self.study.measured_on}
        step = Step(stage, label, params, inputs or {}, hints or {})
        return self.steps.setdefault(step.name, step)

    def label(self, recipe: Recipe) -> str:
        """Return what the steps of a recipe are called by."""
        return f"{self.study.model}-{variant_slug(recipe)}"

    def fetch(self) -> Step:
        """Return the step whose artifact is the pinned model as transformers reads it."""
        if self.source.kind == "gguf":
            return self.step("unpack", self.study.model, {}, {"gguf": self.convert()})
        return self.import_step(self.source, self.study.model, self.study.trust_remote_code)

    def import_step(self, source: Source, label: str, code: bool = False) -> Step:
        """Return the step that brings a pinned source into the store; code: Python files too."""
        params = {"kind": source.kind, "digest": source.digest} | ({"code": True} if code else {})
        return self.step("fetch", label, params, hints={"from": source.locator})

    def text(self, role: str) -> Step:
        """Return the step that brings a text into the store, or that lets the model write it."""
        study = self.study
        if self.texts[role].kind == "own":
            params = study.texts.own_params(role, study.probe, study.seed)
            return self.step("trace", f"{study.model}-{role}", params, {"gguf": self.convert()})
        if self.texts[role].kind == "wikitext":
            part = self.texts[role].locator
            archive = {"archive": self.step("wikitext", "2-raw", {})}
            return self.step("extract", f"wikitext-{part}", {"part": part}, archive)
        mark = self.study.model.partition(MARK)[2]  # in a sweep over texts they'd share a name
        return self.import_step(self.texts[role], f"text-{role}{MARK if mark else ''}{mark}")

    def toolchain(self) -> Step:
        """Return the step that fetches llama.cpp's converter."""
        return self.step("toolchain", "llama.cpp", toolchain_params())

    def convert(self) -> Step:
        """Return the step that makes the model's 16-bit GGUF, or takes the one that it is."""
        if self.source.kind == "gguf":
            file = self.import_step(self.source, f"{self.study.model}-gguf")
            return self.step("adopt", self.study.model, {}, {"file": file})
        inputs = {"model": self.fetch(), "toolchain": self.toolchain()}
        return self.step("convert", self.study.model, {"type": self.study.convert}, inputs)

    def conversion(self) -> Step | None:
        """Return the step that compares the converted GGUF with the original.

        None where the GGUF is the original, or the user doesn't want it compared.
        """
        if self.source.kind == "gguf" or not self.study.check:
            return None
        inputs = {"model": self.fetch(), "gguf": self.convert(), "text": self.text("search")}
        params = {"context": self.study.probe.context}
        return self.step("conversion", self.study.model, params, inputs)

    def curvature(self) -> Step:
        """Return the step that sums X'X of every linear layer over the calibration text.

        The importance matrix is its diagonal.
        """
        probe = self.study.probe
        inputs = {"model": self.fetch(), "gguf": self.convert(), "text": self.text("calibration")}
        params = {
            "tokens": probe.calibration_tokens,
            "context": probe.context,
            "random": probe.calibration_random,
        }
        return self.step("curvature", self.study.model, params, inputs)

    def is_balanced(self, recipe: Recipe) -> bool:
        """Return whether a variant is made from the balanced model: ours are, stock ones aren't."""
        return self.study.balance == "always" and recipe.rounding == "compensated"

    def balance(self) -> Step:
        """Return the step with the equivalent model that llama.cpp rounds better, as a checkpoint
        and with its curvature.
        """
        inputs = {"model": self.fetch(), "gguf": self.convert(), "curvature": self.curvature()}
        return self.step("balance", self.study.model, {}, inputs)

    def checkpoint_of(self, recipe: Recipe) -> Step:
        """Return the step with the checkpoint that a variant is made from."""
        return self.balance() if self.is_balanced(recipe) else self.fetch()

    def curvature_of(self, recipe: Recipe) -> Step:
        """Return the step with the curvature of the model that a variant is made from."""
        return self.balance() if self.is_balanced(recipe) else self.curvature()

    def whole(self, recipe: Recipe) -> Step:
        """Return the step with the 16-bit GGUF of the model that a variant is made from."""
        if not self.is_balanced(recipe):
            return self.convert()
        inputs = {"model": self.balance(), "toolchain": self.toolchain()}
        params = {"type": self.study.convert}
        return self.step("convert", f"{self.study.model}-balanced", params, inputs)

    def base(self, recipe: Recipe) -> Step:
        """Return the step with the 16-bit GGUF of a variant, without what the recipe leaves out."""
        if not recipe.cut:
            return self.whole(recipe)
        balanced = ("balanced",) if self.is_balanced(recipe) else ()
        label = "-".join((self.study.model, *balanced, *recipe.cut_labels))
        params = {"drop": list(recipe.drop)}
        params |= {"no_attention": list(recipe.no_attention)} if recipe.no_attention else {}
        return self.step("prune", label, params, {"gguf": self.whole(recipe)})

    def distortion(self, recipe: Recipe) -> Step:
        """Return the step that measures what a variant's rounding did to each matrix."""
        inputs = {
            "gguf": self.quantize(recipe),
            "source": self.base(recipe),
            "curvature": self.curvature_of(recipe),
        }
        params = {"dropped": list(recipe.drop)}
        return self.step("distortion", self.label(recipe), params, inputs)

    @property
    def by_gradient(self) -> bool:
        """Whether a backward pass measures the tensors' sensitivities, for a planner of mixes."""
        planner = self.study.planner
        return planner.sensitivity == "gradient" and planner.name in SURROGATE_PLANNERS

    def sensitivity(self) -> Step:
        """Return the step that measures what rounding each of the original's matrices costs."""
        probe = self.study.probe
        inputs = {"model": self.fetch(), "gguf": self.convert(), "text": self.text("calibration")}
        params = {
            "tokens": probe.calibration_tokens,
            "context": probe.context,
            "windows": SENSITIVITY_WINDOWS,
        }
        return self.step("sensitivity", self.study.model, params, inputs)

    def quantize(self, recipe: Recipe) -> Step:
        """Return the step that makes a variant's file, as its format has it."""
        step: Step = format_of(recipe.format).make(self, recipe.file)
        return step

    def variant(self, recipe: Recipe, level: str) -> Variant:
        """Return a recipe's steps at a level, as its format has them."""
        variant: Variant = format_of(recipe.format).measure(self, recipe, level)
        return variant

    def environment(self, name: str) -> Step:
        """Return the step that installs the libraries of a format; its artifact is their lock."""
        return self.step(
            "environment", name, dict(environment_params(name, self.study.compress.python))
        )

    def agreement(self, environment: str) -> Step:
        """Return the step that compares a runtime's 16-bit model and tokens with llama.cpp's."""
        inputs = {
            "model": self.fetch(),
            "baseline": self.baseline("search"),
            "text": self.text("search"),
            "environment": self.environment(environment),
        }
        params = {"environment": environment, "seed": self.study.seed}
        return self.step("agreement", f"{self.study.model}-{environment}", params, inputs)

    def baseline(self, level: str) -> Step:
        """Return the step with the 16-bit model's log-probabilities over a text.

        level: search, report or second; screen is a part of the search text.
        """
        probe = self.study.probe
        role = "search" if level == "screen" else level
        tokens = getattr(probe, f"{role}_tokens")
        if level == "screen":  # a baseline needs two windows at least
            tokens = max(tokens // SCREEN, min(tokens, 2 * probe.context))
        params = {"context": probe.context, "tokens": tokens, "top_k": probe.top_k}
        inputs = {"gguf": self.convert(), "text": self.text(role)}
        return self.step("baseline", f"{self.study.model}-{level}", params, inputs)

    def tasks_of(self, recipe: Recipe, level: str) -> tuple[Step, ...]:
        """Return the tasks that a variant is asked.

        A finalist is asked all items; every other one while variants are ranked, where the goal
        has a limit on tasks.
        """
        limited = any(c.metric.startswith("task:") for c in self.study.goal.constraints)
        if level != "report" and not (level == "search" and limited):
            return ()
        part = "all" if level == "report" else "half"
        return tuple(self.task(name, recipe, part) for name in self.task_files)

    def task(self, name: str, recipe: Recipe | None, part: str) -> Step:
        """Return the step that asks a variant a task.

        recipe: None for the 16-bit model, which variants are compared with.
        """
        probe, source = self.study.probe, self.task_files[name]
        params = {
            "name": name,
            "part": part,
            "context": probe.task_context,
            "seed": self.study.seed,
        }
        params |= {"chat": True} if probe.task_chat else {}
        hints = {"run_code": probe.run_code}
        inputs = {"gguf": self.quantize(recipe) if recipe else self.convert()}
        if source:
            inputs["task"] = self.import_step(source, f"task-{name}")
        if recipe is None:
            return self.step("tasks", f"{self.study.model}-{name}-{part}", params, inputs, hints)
        inputs["baseline"] = self.task(name, None, part)
        params |= {} if recipe.kv == "f16" else {"kv": recipe.kv}
        return self.step("tasks", f"{self.label(recipe)}-{name}-{part}", params, inputs, hints)

    def speed_sizes(self) -> Params:
        """Return the sizes of the speed probes, tokens and repetitions."""
        probe = self.study.probe
        return {
            "prompt": probe.speed_prompt,
            "generate": probe.speed_generate,
            "repeat": probe.speed_repeat,
        }

    def extra(self, recipe: Recipe) -> tuple[Step, ...]:
        """Return the stages and probes of plugins, for a finished file."""
        inputs, label = {"gguf": self.quantize(recipe)}, self.label(recipe)
        return tuple(self.step(name, label, {}, inputs) for name in self.study.extra)
