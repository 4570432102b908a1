"""What a planner is given: results so far, the model's facts, similar studies, an adviser."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

from sintra.core.recipe import Recipe
from sintra.core.types import Candidate, Goal, Measurement, Proposal
from sintra.formats.gguf.sizes import MixSizes
from sintra.hardware.estimate.estimate import Shape
from sintra.planning.belief import TextPair, TextRatio, learn_ratio

ADVISER = "language model"  # author of the proposals made on its advice
EXPLORER = "forced exploration"  # author of what is measured instead of advice that repeats itself

JsonObject = dict[str, Any]  # of an outside format: a JSON schema, a reply that follows one
AskModel = Callable[[str, str, JsonObject], JsonObject | None]
KldDifference = Callable[[Recipe, Recipe], tuple[float, float] | None]


class TensorDistortion(TypedDict):
    """Relative squared errors of one quantized matrix, as distortion.json holds them."""

    output: float  # of the layer's output, tr(E H E') / tr(W H W')
    diagonal: float  # weighted by the diagonal of H, the importance matrix
    weights: float  # of the weights themselves


class LessonJson(TypedDict):
    """A StudyLesson as the history keeps it."""

    classes: Mapping[str, tuple[tuple[float, float], ...]]
    factors: Mapping[str, float]
    bend: float


@dataclass(frozen=True)
class TextResult:
    """The measurements of one recipe on one text."""

    recipe: Recipe
    level: str  # which text: "screen", "search" or "report"
    metrics: Mapping[str, Measurement]  # by metric


def no_difference(first: Recipe, second: Recipe) -> tuple[float, float] | None:
    """Return None: no two recipes can be compared window by window."""
    return None


@dataclass(frozen=True)
class StudyResults:
    """What this study proposed, built and measured so far, in the order of the proposals."""

    candidates: tuple[Candidate, ...] = ()  # the measured variants
    attempts: frozenset[tuple[Recipe, str]] = frozenset()  # (recipe, level) of every proposal
    failed: frozenset[Recipe] = frozenset()  # recipes whose files could not be made
    last_round: tuple[Proposal, ...] = ()  # the proposals of the latest round
    text_results: tuple[TextResult, ...] = ()  # the measurements, text by text
    file_bytes: Mapping[Recipe, int] = field(default_factory=dict)
    """Size in bytes of each file that was made without being measured."""
    kld_difference: KldDifference = no_difference
    """Mean KLD of the first recipe minus the second's on the search text, and its standard error
    in nats, bootstrapped over windows; None where one of them was not measured."""

    def kld(self, recipe: Recipe, level: str) -> Measurement | None:
        """Return a recipe's mean KLD on a text, or None where it was not measured."""
        return next(
            (
                result.metrics["kld_mean"]
                for result in self.text_results
                if result.recipe == recipe and result.level == level
            ),
            None,
        )

    def text_ratio(self, near: float | None = None) -> TextRatio:
        """Return the report text's KLD over the search text's, by what was measured on both.

        near: the KLD in nats that matters.
        """
        pairs = [TextPair(search, report) for _, search, report in self._on_both_texts()]
        return learn_ratio(pairs, near)

    def _on_both_texts(self) -> Iterator[tuple[Recipe, float, float]]:
        """Yield the recipes measured on both texts, with the KLD on the search and the report's."""
        for result in self.text_results:
            search = self.kld(result.recipe, "search") if result.level == "report" else None
            if search:
                yield result.recipe, search.value, result.metrics["kld_mean"].value

    def refuted(self, goal: Goal) -> list[Recipe]:
        """Return what held the limit on the KLD on the search text but not on the report text."""
        limits = [c.limit for c in goal.constraints if c.metric == "kld_mean"]
        return [
            recipe
            for recipe, search, report in self._on_both_texts()
            if any(search <= limit < report for limit in limits)
        ]


@dataclass(frozen=True)
class ModelFacts:
    """What is known of the model itself; None or empty until the step that tells it has run."""

    layers: int | None = None  # number of blocks
    architecture: str = ""  # as GGUF names it, such as "llama"
    sizes: MixSizes | None = None  # bytes of any mix of tensor types
    columns: Mapping[int, int] = field(default_factory=dict)
    """Row length -> weights of the matrices that have it; empty where that isn't known before."""
    presets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Stock preset -> matrix -> the type that llama.cpp writes."""
    shape: Shape | None = None  # dimensions, for the estimates of time and memory
    distortion: Mapping[Recipe, Mapping[str, TensorDistortion]] = field(default_factory=dict)
    """Uniform recipe -> tensor -> its errors."""
    influence: tuple[float, ...] = ()
    """By block, how much it turns the hidden states (sintra.formats.runtime.blocks.influence);
    empty where the curvature was not measured."""
    sensitivity: Mapping[str, float] = field(default_factory=dict)
    """Tensor -> nats for each unit of its distortion, by one backward pass
    (sintra.stages.sensitivity); empty where there was none."""
    pockets: tuple[float, ...] = ()
    """Depths from 0 to 1 at which blocks of this architecture lose least, by conf/arch."""


@dataclass(frozen=True)
class Priors:
    """What finished studies of similar models say, the most similar first."""

    lessons: tuple[StudyLesson, ...] = ()  # their fitted models, for the solver
    past_studies: tuple[Mapping[str, object], ...] = ()  # their results, for the language model


def ignore_line(line: str) -> None:
    """Drop a line for the user."""


def ignore_request() -> None:
    """Do nothing: there is no language model to leave alone."""


@dataclass(frozen=True)
class Adviser:
    """The study's language model, where its planner takes advice."""

    ask: AskModel | None = None
    """(system prompt, user prompt, JSON schema) -> reply, None on trouble; None without a model."""
    stop_asking: Callable[[], None] = ignore_request  # make no more calls in this run
    notify: Callable[[str], None] = ignore_line  # print a line for the user
    knowledge: tuple[str, ...] = ()  # sentences of conf/arch on the architecture
    evaluations: int = 0  # variants measured on its advice, beside planner.evaluations


@dataclass(frozen=True)
class PlannerState:
    """Everything that a planner decides by, beside the study itself."""

    results: StudyResults = StudyResults()
    model: ModelFacts = ModelFacts()
    priors: Priors = Priors()
    adviser: Adviser = Adviser()


@dataclass(frozen=True)
class StudyLesson:
    """What a study's fitted model says of similar models: ratios, not absolute values."""

    classes: Mapping[str, tuple[tuple[float, float], ...]]
    """Class of tensors -> (depth from 0 to 1, log sensitivity minus the mean), by depth."""
    factors: Mapping[str, float]  # tensor type -> log of its factor on the distortion
    bend: float  # curvature of the link from distortion to KLD
    weight: float = 1.0  # how similar its model is: 0 for not at all, 10 for the same weights

    def as_json(self) -> LessonJson:
        """Return the lesson without its weight, as the history keeps it."""
        return {"classes": self.classes, "factors": self.factors, "bend": self.bend}

    @staticmethod
    def of(data: Mapping[str, Any], weight: float) -> StudyLesson:
        """Read a lesson from a row of the history. Raises KeyError, TypeError, ValueError."""
        classes = {
            str(kind): tuple((float(depth), float(log)) for depth, log in points)
            for kind, points in data["classes"].items()
        }
        factors = {str(kind): float(log) for kind, log in data["factors"].items()}
        return StudyLesson(classes, factors, float(data["bend"]), weight)
