"""The nouns: frozen values, compared by what they hold. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from sintra.core.artifact import Failure, File
from sintra.core.recipe import Recipe, variant_name

How = Literal["measured", "estimated", "simulated", "exact"]
Status = Literal["pass", "fail", "impossible", "inconclusive"]
Violation = tuple[str, float, float, float]  # metric, value, limit, by how much
Level = Literal["build", "screen", "search", "report"]
EARLIER_STATUS: dict[str, Status] = {  # word of version 0 -> word of now
    "met": "pass",
    "unmet": "fail",
    "infeasible": "impossible",
    "undecided": "inconclusive",
}


@dataclass(frozen=True)
class Hardware:
    """A device profile. Bytes, bytes per second, FLOP/s; None where nobody knows.

    A device whose memory is a GPU's own may name its host's: what doesn't fit goes there.
    efficiency_spread, overhead_spread, flops_spread: half-widths of 90 % intervals of the
    logarithms. type_costs: of a byte of a tensor type, where it was measured; runtime_bytes: what a
    process holds beside weights, cache and buffers; attention: a cached byte's cost for each query
    head over a weight's byte, 0 where nobody knows; attention_flops: of attention in prompts.
    """

    name: str
    title: str
    backend: str
    cores: int
    isa: str
    ram_bytes: int
    usable_bytes: int
    bandwidth: float
    efficiency: float
    efficiency_spread: float
    overhead_s_per_layer: float
    flops: float | None
    thermal: dict[str, float] = field(default_factory=dict)
    runtimes: tuple[str, ...] = ("llama.cpp",)
    overhead_spread: float = 0.0
    bytes_per_weight: float = 0.0
    k_quant: float = 0.0
    flops_spread: float = 0.5
    storage: float | None = None
    host_usable_bytes: int = 0
    host_bandwidth: float = 0.0
    type_costs: dict[str, float] = field(default_factory=dict)
    runtime_bytes: int = 100 * 2**20
    runtime_spread: int = 50 * 2**20
    attention: float = 0.0
    attention_flops: float | None = None


@dataclass(frozen=True)
class Constraint:
    """A limit on a metric: value `op` limit. `option` is what the user wrote to set it."""

    metric: str
    op: Literal["<=", ">="]
    limit: float
    option: str

    def excess(self, value: float) -> float:
        """By how much a value breaks the limit, in the metric's unit; at most 0 where it holds."""
        return value - self.limit if self.op == "<=" else self.limit - value


@dataclass(frozen=True)
class Goal:
    """The limits, and what to make small (sense 1) or large (sense -1) under them.

    accept_simulated: whether a simulated value may be the ground on which a limit is said to hold;
    enforce_memory: whether finalists are run under a limit of the device's usable memory.
    """

    name: str
    constraints: tuple[Constraint, ...]
    optimise: str
    sense: int
    accept_simulated: bool = False
    enforce_memory: bool = False


@dataclass(frozen=True)
class Board:
    """The board that a study measures on, as it described itself."""

    identity: dict[str, Any]  # host key, processor, cores, memory, runtime
    threads: int  # of the runtime there
    gpu_layers: int | None  # None: all where the runtime has a GPU
    full: float | None = None  # device_ram_bytes of the smallest variant that did not fit

    @property
    def params(self) -> dict[str, Any]:
        """Return what of the board is part of a measurement's key."""
        return {"threads": self.threads, "gpu_layers": self.gpu_layers, "board": self.identity}


@dataclass(frozen=True)
class Measurement:
    """One number with its error and its provenance. Units: bytes, nats, tokens/s, 1 (a ratio or
    share).
    """

    metric: str
    value: float
    unit: str
    how: How
    stderr: float | None = None
    n: int | None = None
    low: float | None = None
    high: float | None = None
    where: str = ""
    protocol: str = ""


@dataclass(frozen=True)
class Proposal:
    """A recipe that a planner wants built, and how far. Nothing here is ever part of a key.

    level: "build" makes the file and, of a uniform one, measures each tensor's distortion; "screen"
    measures quality on a part of the search text, "search" on all of it; "report" decides.
    predicted: metric -> value; metric_low, metric_high. probe: the tensors whose sensitivity it
    measures, in words; "" for all else.
    """

    recipe: Recipe
    why: str
    author: str
    level: Level = "search"
    predicted: dict[str, float] = field(default_factory=dict)
    confidence: float | None = None
    probe: str = ""

    @staticmethod
    def of(data: dict[str, Any]) -> Proposal:
        """From its JSON form. Raises KeyError, TypeError."""
        return Proposal(**{**data, "recipe": Recipe.of(data["recipe"])})


@dataclass(frozen=True)
class Candidate:
    """A recipe and all that is known of it so far. `artifact` is its GGUF or its folder when it was
    built; `predicted` is what the planner expected of it (Proposal.predicted), `stated` how sure
    its author was (Proposal.confidence); `round` proposed it first; `name` is what people read, no
    other in its study has it; `probe` is Proposal.probe. `expected` is what the report text should
    say of the KLD, with a 90 % interval, while it has not.
    """

    recipe: Recipe
    why: str
    author: str
    measurements: tuple[Measurement, ...] = ()
    artifact: File | None = None
    failure: Failure | None = None
    decided: bool = False
    predicted: dict[str, float] = field(default_factory=dict)
    stated: float | None = None
    round: int = 0
    name: str = ""
    probe: str = ""
    expected: Measurement | None = None

    @property
    def label(self) -> str:
        """Its name, or what its recipe alone says where nobody has named it."""
        return self.name or variant_name(self.recipe, probe=self.probe)

    def value(self, metric: str) -> float | None:
        """The metric's value, or None where it is unknown."""
        found = self.find(metric)
        return found.value if found else None

    def find(self, metric: str) -> Measurement | None:
        """The measurement itself."""
        return next((m for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True)
class Verdict:
    """The judge's word. `violated`: the worst first."""

    status: Status
    violated: tuple[Violation, ...] = ()
    unknown: tuple[str, ...] = ()
    reason: str = ""


def upgrade_status(word: str) -> str:
    """Return the word of now for a status that an earlier version wrote; others as they are."""
    return EARLIER_STATUS.get(word, word)


SCREEN = 4  # the part of the search text that a screen reads: one in so many windows
