"""The nouns: frozen values, compared by what they hold. Standard library only."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

How = Literal["measured", "estimated", "simulated", "exact"]
Rounding = Literal["nearest", "compensated"]
Status = Literal["met", "unmet", "infeasible", "undecided"]


Level = Literal["build", "screen", "search", "report"]
# The file type that names a file most of whose matrices are of a tensor type, where the names differ.
FILE_TYPES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def canonical(value: Any) -> str:
    """JSON in one way only: sorted keys, no spaces, no NaN."""
    return _ENCODER.encode(value)


def sha256(text: str) -> str:
    """Hex SHA-256 of a text in UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Hardware:
    """A device profile. Bytes, bytes per second, FLOP/s; None where nobody knows.

    A device whose memory is a GPU's own may name its host's: what doesn't fit goes there. efficiency_spread,
    overhead_spread, flops_spread: half-widths of 90 % intervals of the logarithms. type_costs: of a byte of a tensor type,
    where it was measured; runtime_bytes: what a process holds beside weights, cache and buffers.
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

    accept_simulated: whether a simulated value may be the ground on which a limit is called met; enforce_memory: whether
    finalists are run under a limit of the device's usable memory."""

    name: str
    constraints: tuple[Constraint, ...]
    optimise: str
    sense: int
    accept_simulated: bool = False
    enforce_memory: bool = False


@dataclass(frozen=True)
class Source:
    """A pinned model or text: what it is by content, and (outside every key) where to get it.

    kind "folder" or "file": `digest` is the tree digest and `locator` the path; kind "hub": `digest` is the 40-hex
    commit and `locator` the repository id; kind "task": a task's YAML (`locator`) with its data, by the digest of all.
    """

    kind: Literal["folder", "file", "hub", "task"]
    digest: str
    locator: str


@dataclass(frozen=True)
class Study:
    """Everything that one `optimize` needs."""

    id: str
    model: str
    hardware: Hardware
    goal: Goal
    planner: str
    planner_options: dict[str, Any]
    probe: dict[str, Any]
    model_options: dict[str, Any]
    texts: dict[str, str]
    seed: int
    max_rounds: int
    overrides: tuple[str, ...]
    formats: tuple[str, ...] = ("gguf",)
    compress: dict[str, Any] = field(default_factory=dict)
    measured_on: str = ""
    extra: tuple[str, ...] = ()
    device: dict[str, Any] = field(default_factory=dict)  # the board that is measured: sintra.attached


@dataclass(frozen=True)
class Recipe:
    """How a variant is made from a converted model; equal recipes are equal values.
    type: a llama.cpp file type; tensors: (regular expression, tensor type) pairs, the first match wins, and what none
    matches has the file type's own choice; importance: whether the importance matrix is used; drop: blocks left out,
    ascending; rounding: of the integers, to the nearest grid point or compensated (see sintra.rounding); kv: the type of
    the KV cache that it is to be run with; format: of its file (sintra.formats): others than gguf have only a type, bits and
    group size as in w4g128; refine: whether the finished file is rounded anew, block after block (sintra.stages.refine);
    polish: whether it is tuned end to end after that (sintra.stages.polish).
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
        if self.drop:
            parts.append("drop" + "_".join(map(str, self.drop)))
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
        if not self.complete or self.uniform or self.drop:
            return ()
        kinds = sorted({t for _, t in self.tensors})
        return tuple(replace(self, type=FILE_TYPES.get(t, t), tensors=((".*", t),)) for t in kinds)

    @staticmethod
    def of(data: dict[str, Any]) -> Recipe:
        """From its JSON form."""
        tensors = tuple((str(p), str(t)) for p, t in data.get("tensors", ()))
        return Recipe(data["type"], bool(data.get("importance")), tuple(data.get("drop", ())), tensors,
                      data.get("rounding", "nearest"), data.get("kv", "f16"), data.get("format", "gguf"),
                      bool(data.get("refine")), bool(data.get("polish")))  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """For round files, results and names; a plain GGUF's is what it was before there were formats and finishing."""
        plain = (("format", "gguf"), ("refine", False), ("polish", False))
        return {k: v for k, v in asdict(self).items() if (k, v) not in plain}

    @property
    def finished(self) -> bool:
        """Whether it is more than put together from what other variants are made of."""
        return self.refine or self.polish


@dataclass(frozen=True)
class File:
    """One file of an artifact: its path in the tree (posix), size in bytes and SHA-256."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Artifact:
    """A tree of files; its digest is over the sorted (path, size, SHA-256) triples."""

    files: tuple[File, ...]

    @cached_property
    def digest(self) -> str:
        """Hex SHA-256 of the tree."""
        return sha256(canonical([[f.path, f.size, f.sha256] for f in sorted(self.files, key=lambda f: f.path)]))

    @property
    def model(self) -> File:
        """What is delivered of a variant: its model.gguf, or its folder model/ as one, with all bytes and the tree's digest."""
        whole = next((f for f in self.files if f.path == "model.gguf"), None)
        if whole:
            return whole
        tree = Artifact(tuple(f for f in self.files if f.path.startswith("model/")))
        return File("model", sum(f.size for f in tree.files), tree.digest)


@dataclass(frozen=True)
class Failure:
    """A step that can't work: a result too. `log` is the tail of what the worker wrote."""

    kind: str
    message: str
    log: str = ""


@dataclass(frozen=True)
class Measurement:
    """One number with its error and its provenance. Units: bytes, nats, tokens/s, 1 (a ratio or share)."""

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

    level: "build" makes the file and, of a uniform one, measures each tensor's distortion; "screen" measures quality on
    a part of the search text, "search" on all of it; "report" decides. predicted: metric -> value; metric_low, metric_high.
    """

    recipe: Recipe
    why: str
    author: str
    level: Level = "search"
    predicted: dict[str, float] = field(default_factory=dict)
    confidence: float | None = None

    @staticmethod
    def of(data: dict[str, Any]) -> Proposal:
        """From its JSON form. Raises KeyError, TypeError."""
        return Proposal(**{**data, "recipe": Recipe.of(data["recipe"])})


@dataclass(frozen=True)
class Candidate:
    """A recipe and all that is known of it so far. `artifact` is its GGUF or its folder when it was built; `predicted` is what
    the planner expected of it (Proposal.predicted), `stated` how sure its author was (Proposal.confidence); `round` proposed it
    first."""

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

    def value(self, metric: str) -> float | None:
        """The metric's value, or None where it is unknown."""
        found = self.find(metric)
        return found.value if found else None

    def find(self, metric: str) -> Measurement | None:
        """The measurement itself."""
        return next((m for m in self.measurements if m.metric == metric), None)


@dataclass(frozen=True)
class Verdict:
    """The judge's word. `violated`: (metric, value, limit, by how much), the worst first."""

    status: Status
    violated: tuple[tuple[str, float, float, float], ...] = ()
    unknown: tuple[str, ...] = ()
    reason: str = ""
