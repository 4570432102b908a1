"""Hold every option as a field of a frozen dataclass: Hydra's schema, and the values of a run.

Sizes: `_gb` of a device is GiB (2^30 bytes), as memory is sold; `_mb` of a file is 10^6 bytes. What
an option means to a user stands in option_docs.csv.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class HardwareConf:
    """A device profile."""

    name: str = ""  # as in `hardware=NAME`
    title: str = ""  # what it is called in reports
    backend: str = "cpu"  # cpu, cuda, metal, vulkan, opencl
    cores: int = 4  # CPU cores
    isa: str = ""  # instruction sets that llama.cpp has kernels for
    ram_gb: float = 8.0  # memory that holds the model, GiB
    usable_gb: float = 6.0  # what a process may have of it, GiB
    bandwidth_gbs: float = 20.0  # memory bandwidth, 10^9 bytes per second
    efficiency: float = 0.63  # share of the bandwidth that decoding reaches
    efficiency_spread: float = 0.25  # relative half-width of its 90 % interval
    overhead_us_per_layer: float = 0.0  # time per layer and token beside reading, microseconds
    tflops: float | None = None  # effective speed of prompt processing, 10^12 FLOP per second
    thermal: dict[str, float] = field(default_factory=dict)  # parameters of the thermal model
    runtimes: tuple[str, ...] = ("llama.cpp",)  # what can run a model there
    overhead_spread: float = 0.0  # relative half-width of the overhead's 90 % interval
    bytes_per_weight: float = 0.0  # cost of decoding a weight beside reading it, bytes
    k_quant: float = 0.0  # extra cost of a byte of a K-quant, as a share
    tflops_spread: float = 0.5  # relative half-width of the interval of tflops
    storage_mbs: float | None = None  # reading from storage, 10^6 bytes per second
    host_usable_gb: float = 0.0  # memory of the computer that a graphics card sits in, GiB
    host_bandwidth_gbs: float = 0.0  # its bandwidth, 10^9 bytes per second
    type_costs: dict[str, float] = field(default_factory=dict)  # cost of a type's byte (calibrate)
    runtime_mib: float = 100.0  # memory beside weights, cache and buffers, MiB
    runtime_spread_mib: float = 50.0  # half-width of its 90 % interval, MiB
    attention: float = 0.0  # cost of a cached byte per query head over a weight's (calibrate)
    attention_tflops: float | None = None  # effective speed of attention in prompts


@dataclass(frozen=True)
class ModelConf:
    """A model: a folder or a hub id."""

    name: str = ""  # what it is called in steps and outputs
    source: str = ""  # a folder, a GGUF file or owner/name
    revision: str = "main"  # branch, tag or commit of a hub model
    convert: str = "f16"  # 16-bit type of its GGUF: f16, bf16 (or f32)
    trust_remote_code: bool = False  # whether Python code that comes with it may be run
    requantize: bool = False  # whether a GGUF may be quantized already: damage counts from there
    check: bool = True  # whether its GGUF's predictions are compared with the original's first
    texts: str = "own"  # what it is judged on by default: own, or stories (the bundled models)
    balance: str = "auto"  # whether ours are made from an equivalent that llama.cpp rounds better

    @property
    def is_gguf(self) -> bool:
        """Return whether the source is a GGUF file."""
        return self.source.endswith(".gguf")


@dataclass(frozen=True)
class GoalConf:
    """Limits (None: no limit) and the metric to optimize under them."""

    name: str = ""  # as in `goal=NAME`
    optimise: str = "size_bytes"  # a metric
    fit_memory: bool = True  # whether the device's usable memory is a limit
    max_kld: float | None = None  # mean KL divergence, nats
    max_kld_p999: float | None = None  # its 99.9th percentile, nats
    max_ppl_ratio: float | None = None  # perplexity over the baseline's
    min_same_top: float | None = None  # share of equal top tokens, 0 to 1
    min_task_retention: float | None = None  # share of the baseline's score in every task
    max_size_mb: float | None = None  # of the file, 10^6 bytes
    max_ram_gb: float | None = None  # of the device, GiB
    min_tg_tps: float | None = None  # generation, tokens per second
    min_pp_tps: float | None = None  # prompt processing, tokens per second
    min_tg_tps_sustained: float | None = None  # generation on a hot device, tokens per second
    accept_simulated: bool = False  # whether a simulation alone may meet a limit
    enforce_memory: bool = False  # whether finalists run under a limit of the usable memory
    depth: int = 0  # tokens in the cache when speed is judged
    context: int | None = None  # it is served with, tokens; None: the model's own, at most 4096


@dataclass(frozen=True)
class PlannerConf:
    """Which planner, and how it searches."""

    name: str = "solver"  # an entry point of sintra.planners
    types: tuple[str, ...] = ()  # tensor types to choose from; the ladder's presets
    evaluations: int = 25  # variants measured on the search text, at most
    kv: tuple[str, ...] = ("f16",)  # types of the KV cache that may be tried
    seed: int = 0  # of random draws
    batch: int = 4  # the ladder's presets per round
    max_dropped: int = 1  # blocks that may be left out
    rounding: str = "compensated"  # or nearest
    sensitivity: str = "auto"  # of tensors, by gradient or by probes; auto: by the model's size
    learn: bool = True  # whether earlier studies of similar models are used
    refine: bool = True  # whether the best variant is rounded again, block after block
    polish: bool = False  # whether the best variant is tuned end to end
    replay: str = ""  # a recipe.yaml, result.json, rounds.json or GGUF
    base_url: str = ""  # an OpenAI-compatible endpoint
    model: str = ""  # the language model's name there
    timeout_s: float = 60.0  # a reply may take so long
    max_calls: int = 12  # calls per study
    max_tokens: int = 100_000  # tokens per study, prompts included
    max_usd: float | None = 1.0  # US dollars per study
    max_reply_tokens: int = 1024  # tokens per reply
    price_input: float | None = None  # US dollars per million tokens
    price_output: float | None = None  # US dollars per million tokens


@dataclass(frozen=True)
class ProbeConf:
    """How much is measured, and on how much text a variant is refined and polished.

    Token counts are those that are read; the second half of each window is scored.
    """

    name: str = ""  # as in `probe=NAME`
    context: int = 512  # window, tokens
    calibration_tokens: int = 20480
    calibration_random: float = 0.2  # share of random tokens in the curvature, 0 to 0.9
    refine_tokens: int | None = None  # None: by the model's size (sintra.stages.refine)
    refine_steps: int | None = None  # steps of learning per block; None: by the model's size
    polish_tokens: int = 40960
    polish_epochs: float = 2.0  # passes over the polishing tokens
    search_tokens: int = 5120
    report_tokens: int = 20480
    second_tokens: int = 5120
    top_k: int = 512  # entries kept of a large vocabulary's baseline, per position
    speed_prompt: int = 256  # tokens
    speed_generate: int = 64  # tokens
    speed_repeat: int = 5  # repetitions
    depth: tuple[int, ...] = ()  # tokens in the cache beside none; empty: the context
    tasks: tuple[str, ...] = ()  # names, or YAML files
    task_context: int = 2048  # longest prompt with its answer, tokens
    task_chat: bool = False  # whether questions use the model's chat template
    run_code: bool = False  # whether code that the model writes may be run


@dataclass(frozen=True)
class StoreConf:
    """Where the cache is, and with whom it is shared."""

    name: str = "local"
    path: str = "cache"  # folder
    remote: str = ""  # a bucket or folder that machines share
    mode: str = "readwrite"  # or readonly
    locks: str = "auto"  # auto, flock or lease


@dataclass(frozen=True)
class DeviceConf:
    """Where device speeds and memory come from: estimates (local), or a board over SSH (ssh)."""

    name: str = "local"  # an entry point of sintra.devices
    host: str = ""  # name, address or alias of ~/.ssh/config
    port: int | None = None  # where it differs from ~/.ssh/config
    user: str = ""  # where it differs from ~/.ssh/config
    key: str = ""  # private key file, where the agent and ~/.ssh have none that fits
    known_hosts: str = "~/.ssh/known_hosts"  # file of trusted host keys
    folder: str = ".cache/sintra"  # on the board, relative to its home
    python: str = ""  # a Python there that has llama-cpp-python
    bench: str = ""  # a llama-bench there, used instead
    install: bool = False  # whether llama-cpp-python is installed there
    threads: int | None = None  # None: every core
    gpu_layers: int | None = None  # None: all where the runtime has a GPU
    timeout_s: float = 3600.0  # a measurement may take so long


@dataclass(frozen=True)
class TextsConf:
    """Texts, disjoint in content: files, or "own" for what the model writes itself."""

    name: str = "auto"  # auto: the bundled models' text for them, own text for every other model
    calibration: str = ""  # what files are shaped by
    search: str = ""  # what ranks
    report: str = ""  # what decides
    second: str | None = ""  # of another domain; None: not measured
    temperature: float = 1.0  # of text that the model writes
    chat: float = 0.5  # share of conversations in text that the model writes


@dataclass(frozen=True)
class CompressConf:
    """GPTQ and AWQ checkpoints."""

    bits: int = 4  # 4 or 8
    group_size: int = 128  # columns that share a scale: 32, 64 or 128
    python: str = "auto"  # auto: an environment in the cache where needed; here: only this one
    checkpoint: str = ""  # a folder with a GPTQ checkpoint, measured instead of making one
    timeout_s: float | None = None  # time limit of making one, seconds
    max_ram_gb: float | None = None  # memory limit of making one, GiB (Linux)


@dataclass(frozen=True)
class ExecutorConf:
    """Where steps run: on this machine, as jobs of Slurm, as tasks of Ray."""

    name: str = "local"  # an entry point of sintra.executors
    retries: int = 0  # after a lost node, a pre-emption, a killed worker
    jobs: int = 16  # steps under way at once elsewhere
    cpus: int = 1  # cores of a job that uses many
    mem_gb: float | None = None  # memory of a job, GiB
    max_mem_gb: float | None = None  # up to what it is doubled after an out-of-memory kill, GiB
    gpus: int = 0  # GPUs of a job that uses many cores
    measure: str | None = None  # where measuring steps go: partition, or custom resource
    partition: str | None = None  # Slurm
    minutes: int | None = None  # Slurm: time limit of a job
    cluster: str = "slurm"  # or local: submitit's stand-in
    sbatch: dict[str, str] = field(default_factory=dict, hash=False)  # Slurm: other options
    address: str | None = None  # Ray: HOST:PORT of the head; None: a Ray on this machine
    resources: dict[str, float] = field(default_factory=dict, hash=False)  # Ray: custom ones
    poll_s: float = 5.0  # seconds between two looks at a job


@dataclass(frozen=True)
class LimitsConf:
    """Limits of time and of this machine."""

    timeout: dict[str, float | None] = field(default_factory=dict)  # stage -> seconds per step
    study_minutes: float | None = None  # one run may take so long
    deliver_s: float = 60.0  # seconds between two deliveries of the best so far, at least
    heavy: int = 1  # heavy steps at once
    memory_gb: float | None = None  # for heavy steps together, GiB
    background: bool = False  # whether workers give way to everything else


@dataclass(frozen=True)
class EffortConf:
    """How much a study may cost: a set of values for options of planner and probe."""

    name: str = "standard"  # as in `effort=NAME`: quick, standard or thorough


@dataclass(frozen=True)
class NotifyConf:
    """Messages to webhooks."""

    on: tuple[str, ...] = ("met", "unmet", "failed")  # kinds of events that are sent
    timeout_s: float = 5.0  # a request may take so long
    retries: int = 4  # further tries of a request


@dataclass(frozen=True)
class MlflowConf:
    """MLflow."""

    uri: str = ""  # tracking server; "": MLFLOW_TRACKING_URI, else SQLite in outputs/mlflow
    experiment: str = "sintra"
    register: bool = True  # whether winners go into the model registry


@dataclass(frozen=True)
class Config:
    """All options of a run."""

    hardware: HardwareConf = field(default_factory=HardwareConf)
    model: ModelConf = field(default_factory=ModelConf)
    goal: GoalConf = field(default_factory=GoalConf)
    planner: PlannerConf = field(default_factory=PlannerConf)
    probe: ProbeConf = field(default_factory=ProbeConf)
    store: StoreConf = field(default_factory=StoreConf)
    device: DeviceConf = field(default_factory=DeviceConf)
    texts: TextsConf = field(default_factory=TextsConf)
    formats: tuple[str, ...] = ("gguf",)  # file formats to make and compare
    compress: CompressConf = field(default_factory=CompressConf)
    executor: ExecutorConf = field(default_factory=ExecutorConf)
    limits: LimitsConf = field(default_factory=LimitsConf)
    effort: EffortConf = field(default_factory=EffortConf)
    progress: str = "auto"  # auto, plain, quiet, json
    extra: tuple[str, ...] = ()  # stages and probes of plugins for every finalist
    listeners: tuple[str, ...] = ()  # entry points of sintra.listeners
    notify: NotifyConf = field(default_factory=NotifyConf)
    mlflow: MlflowConf = field(default_factory=MlflowConf)
    seed: int = 0  # of bootstraps
    max_rounds: int = 12  # rounds that planners may propose
    timeout_s: float | None = None  # time limit of every step, seconds
    refresh: bool = False  # whether the model is pinned again and planning starts over


def from_json(kind: type[T], data: Mapping[str, Any]) -> T:
    """Build an options dataclass from its JSON form. Raises KeyError for a missing option."""
    assert is_dataclass(kind)
    values: dict[str, Any] = {}
    for option in fields(kind):
        value, default = data[option.name], option.default
        if callable(option.default_factory):
            default = option.default_factory()
        if is_dataclass(default):
            value = from_json(type(default), value)
        elif isinstance(default, tuple):
            value = tuple(value)
        values[option.name] = value
    return kind(**values)


def unnamed(options: Any) -> dict[str, Any]:
    """Return an options group as a dictionary without the name of the file that set it."""
    return {key: value for key, value in asdict(options).items() if key != "name"}
