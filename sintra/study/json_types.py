"""The JSON files of a study, as types: rounds, result.json with its rows, manifest.json."""

from __future__ import annotations

from typing import Any, Literal, NotRequired, TypedDict

from sintra.build.run_state import LanguageModelBill
from sintra.core.recipe import RecipeJson
from sintra.core.types import How, Level, Status, Violation


class ProposalJson(TypedDict):
    """A proposal of a round (sintra.core.types.Proposal)."""

    recipe: RecipeJson
    why: str  # the planner's reason
    author: str  # a planner, "language model" or "study"
    level: Level
    predicted: dict[str, float]  # metric, metric_low or metric_high -> value
    confidence: float | None  # how sure the author is, 0 to 1
    probe: str  # the tensors whose sensitivity it measures, in words; "" for all else
    name: NotRequired[str]  # of its variant, for people; only in outputs/<study>/rounds.json


class StudyKindJson(TypedDict):
    """What makes two studies alike."""

    architecture: str  # of the GGUF, such as "llama"
    weights: str  # SHA-256 of the model's tree, or its commit on the hub
    parameters: int
    blocks: int | None
    backend: str  # of the device: "cpu", "cuda" ...
    optimise: str  # the goal's metric
    rounding: str  # "nearest" or "compensated"


class LessonJson(StudyKindJson):
    """What a finished study teaches later ones: its fitted model and how it ended."""

    classes: dict[str, list[list[float]]]  # class of tensors -> [depth, log sensitivity] pairs
    factors: dict[str, float]  # tensor type -> log factor
    bend: float  # of the link from distortion to KLD
    evaluations: int  # mixes that were measured
    least_kld: float  # mean KLD of the best of them on the search text, nats
    misfit: float  # of the fitted model


class RoundJson(TypedDict):
    """A round as a file, and an item of rounds.json."""

    round: int  # counted from 1
    proposals: list[ProposalJson]
    stop: str | None  # why the study ends with this round
    again: NotRequired[bool]  # only in a last round: whether the next run reopens the study
    learned: NotRequired[LessonJson | None]  # only in a last round


class MeasurementJson(TypedDict):
    """A number of a candidate (sintra.core.types.Measurement); what is unknown is left out."""

    metric: str
    value: float
    unit: str
    how: How
    stderr: NotRequired[float]
    n: NotRequired[int]  # of what was averaged
    low: NotRequired[float]  # ends of the 90 % interval
    high: NotRequired[float]
    where: NotRequired[str]  # the machine that measured it
    protocol: NotRequired[str]


class VerdictJson(TypedDict):
    """The judge's verdict on a candidate."""

    status: Status
    violated: list[Violation]  # the worst first
    unknown: list[str]  # metrics without a value that counts
    reason: str


class ModelFileJson(TypedDict):
    """The file or folder of a variant."""

    path: str  # below outputs/<study>: "model.gguf" or "model"
    sha256: str  # of the file, or of the folder's tree
    bytes: int


class FailureJson(TypedDict):
    """Why a variant couldn't be made or measured."""

    kind: str
    message: str
    log: str


class CandidateJson(TypedDict):
    """A candidate in result.json."""

    name: str  # what people read; no other candidate of the study has it
    probe: str  # the tensors whose sensitivity it measures, in words; "" for all else
    recipe: RecipeJson
    why: str
    author: str
    artifact: ModelFileJson | None  # None where it couldn't be built
    confidence: float  # the least probability over all limits that the true value holds the limit
    decided_on: Literal["report", "search"]  # the text that its quality is judged by
    measurements: list[MeasurementJson]
    predicted: dict[str, float]  # metric, metric_low or metric_high -> value
    stated: float | None  # how sure its author was, 0 to 1
    round: int  # that proposed it first
    failure: FailureJson | None
    verdict: VerdictJson


class ConstraintJson(TypedDict):
    """A limit of the goal."""

    metric: str
    op: Literal["<=", ">="]
    limit: float  # in the metric's unit
    option: str  # that sets it, such as "goal.max_kld"


class GoalJson(TypedDict):
    """The goal: either `minimise` or `maximise` is there."""

    name: str
    constraints: list[ConstraintJson]
    minimise: NotRequired[str]  # a metric
    maximise: NotRequired[str]


class DeviceJson(TypedDict):
    """The head of the device's profile."""

    name: str
    title: str
    backend: str
    isa: str
    cores: int
    ram_bytes: int
    usable_bytes: int


class FormatJson(TypedDict):
    """A format that was asked for: its best variant, or why there is none."""

    format: str
    runtime: str
    status: str  # of the best variant; "not_tried" or "failed" where there is none
    recipe: NotRequired[str]  # name of the best variant
    agreement: NotRequired[dict[str, float]]  # metric -> value, of two runtimes on the 16-bit model
    reason: NotRequired[str]  # why there is no variant


class FallbackJson(TypedDict):
    """What llama.cpp writes in matrices whose rows aren't whole blocks of some types."""

    columns: int  # elements of a row
    share: float  # of the model's weights that such matrices have
    written: dict[str, str]  # planned type -> the type that is in the file


class ConversionJson(TypedDict, total=False):
    """How far the 16-bit GGUF is from the original checkpoint."""

    kld_mean: float  # mean KL(transformers || GGUF), nats
    tokens: int  # over which it is the mean
    kld_long: float  # the same in one window that reaches beyond `long`, nats
    long: str  # a sliding window or a kind of rope scaling, in words
    reason: str  # why it wasn't compared, instead of all these


class ResultJson(TypedDict):
    """result.json."""

    schema: int
    study: str
    status: Status
    reason: str  # why the last round was the last
    model: str
    hardware: str
    device: DeviceJson
    context: int  # that the model is served with, tokens
    window: NotRequired[int]  # of the texts, tokens; missing in results of before: the context
    goal: GoalJson
    winner: CandidateJson | None
    candidates: list[CandidateJson]  # the best first, then those that failed
    learned: LessonJson | None
    rounds: int
    evaluations: int  # candidates whose KLD was measured
    steps: dict[str, int]  # built, cached, failed and pulled in the run that wrote it
    llm: LanguageModelBill
    wall_s: float
    original: NotRequired[list[MeasurementJson]]  # of the 16-bit model: size, memory, speed
    formats: NotRequired[list[FormatJson]]  # where more than GGUF was asked for
    fallbacks: NotRequired[list[FallbackJson]]  # where planned types aren't what is written
    decoded: NotRequired[str]  # type of the source, where it was a quantized GGUF
    conversion: NotRequired[ConversionJson]  # where the GGUF was compared with the original
    warnings: NotRequired[list[str]]  # of llama.cpp's converter
    trust_remote_code: NotRequired[bool]  # true where Python code of the model was allowed to run
    board: NotRequired[dict[str, Any]]  # what the measured board says it is


class CellJson(TypedDict):
    """What a study of a sweep or a comparison came to."""

    study: str
    status: str  # a study's, or "failed" where it didn't end
    reason: str
    model: str
    hardware: str
    winner: CandidateJson | None
    overrides: list[str]


class SourceJson(TypedDict):
    """The pin of a model."""

    kind: str  # "folder" or "hub"
    digest: str


class ManifestJson(TypedDict):
    """manifest.json: where a result came from, and the digest of every file."""

    study: str
    sintra: str  # version
    files: dict[str, str]  # path below outputs/<study> -> SHA-256
    overrides: list[str]
    source: SourceJson
    texts: dict[str, str]  # role -> digest
    tools: dict[str, str]  # package -> version
    locks: NotRequired[dict[str, Any]]  # environment of another format -> versions of its libraries
