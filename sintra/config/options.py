"""Every option as a field of a dataclass: Hydra's schema.

Sizes: `_gb` of a device is GiB (2^30 bytes), as memory is sold; `_mb` of a file is 10^6 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class HardwareConf:
    """A device. Speeds in GB/s (10^9 bytes), MB/s and TFLOP/s; efficiency is the share of the
    bandwidth that decoding gets.

    bytes_per_weight: what decoding a weight costs beside reading it; k_quant: what a byte of a
    K-quant costs above others; host_*: the computer that a graphics card sits in; type_costs: what
    a byte of a tensor type costs by `doit calibrate`; runtime_mib: memory of a process beside
    weights, cache and buffers.
    """

    name: str = ""
    title: str = ""
    backend: str = "cpu"
    cores: int = 4
    isa: str = ""
    ram_gb: float = 8.0
    usable_gb: float = 6.0
    bandwidth_gbs: float = 20.0
    efficiency: float = 0.63
    efficiency_spread: float = 0.25
    overhead_us_per_layer: float = 0.0
    tflops: float | None = None
    thermal: dict[str, float] = field(default_factory=dict)
    runtimes: list[str] = field(default_factory=lambda: ["llama.cpp"])
    overhead_spread: float = 0.0
    bytes_per_weight: float = 0.0
    k_quant: float = 0.0
    tflops_spread: float = 0.5
    storage_mbs: float | None = None
    host_usable_gb: float = 0.0
    host_bandwidth_gbs: float = 0.0
    type_costs: dict[str, float] = field(default_factory=dict)
    runtime_mib: float = 100.0
    runtime_spread_mib: float = 50.0


@dataclass
class ModelConf:
    """A model: a folder or a hub id, with an optional revision; `convert` is the 16-bit type of its
    GGUF.

    trust_remote_code: whether Python code that comes with the model may be run.
    """

    name: str = ""
    source: str = ""
    revision: str = "main"
    convert: str = "f16"
    trust_remote_code: bool = False


@dataclass
class GoalConf:
    """Limits (None: no limit) and the metric to optimise under them."""

    name: str = ""
    optimise: str = "size_bytes"
    fit_memory: bool = True
    max_kld: float | None = None
    max_kld_p999: float | None = None
    max_ppl_ratio: float | None = None
    min_same_top: float | None = None
    min_task_retention: float | None = None
    max_size_mb: float | None = None
    max_ram_gb: float | None = None
    min_tg_tps: float | None = None
    min_pp_tps: float | None = None
    min_tg_tps_sustained: float | None = None
    accept_simulated: bool = False
    enforce_memory: bool = False


@dataclass
class PlannerConf:
    """Which planner, and what it is told."""

    name: str = "solver"
    types: list[str] = field(default_factory=list)
    evaluations: int = 25
    kv: list[str] = field(default_factory=lambda: ["f16"])
    seed: int = 0
    batch: int = 4
    max_dropped: int = 1
    rounding: str = "compensated"
    learn: bool = True
    refine: bool = True
    polish: bool = False
    replay: str = ""
    base_url: str = ""
    model: str = ""
    timeout_s: float = 60.0
    max_calls: int = 12
    max_tokens: int = 100_000
    max_usd: float | None = 1.0
    max_reply_tokens: int = 1024
    price_input: float | None = None
    price_output: float | None = None


@dataclass
class ProbeConf:
    """How much is measured. Token counts are those read; the second half of each window is scored.

    refine_tokens, refine_steps: of the calibration text, on how much a variant is refined, and for
    how many steps each block learns (None: by the model's size, see sintra.stages.refine).
    polish_tokens, polish_epochs: of the calibration text, how much the finished file is tuned on
    and how often.
    """

    name: str = ""
    context: int = 512
    calibration_tokens: int = 40960
    calibration_random: float = 0.2
    refine_tokens: int | None = None
    refine_steps: int | None = None
    polish_tokens: int = 40960
    polish_epochs: float = 2.0
    search_tokens: int = 5120
    report_tokens: int = 20480
    second_tokens: int = 10240
    top_k: int = 512
    speed_prompt: int = 256
    speed_generate: int = 64
    speed_repeat: int = 5
    tasks: list[str] = field(default_factory=list)
    task_context: int = 2048
    task_chat: bool = False
    run_code: bool = False


@dataclass
class StoreConf:
    """Where the cache is; remote: a bucket or folder that others share, mode: readwrite or
    readonly; locks: auto, flock or lease.
    """

    name: str = "local"
    path: str = "cache"
    remote: str = ""
    mode: str = "readwrite"
    locks: str = "auto"


@dataclass
class DeviceConf:
    """Where device speeds and memory come from: estimates (local), or a board that is measured over
    SSH (ssh).

    port, user, key: where they differ from ~/.ssh/config and OpenSSH's defaults; folder: on the
    board, relative to its home; threads, gpu_layers: None for every core, and for every layer where
    the runtime there has a GPU.
    """

    name: str = "local"
    host: str = ""
    port: int | None = None
    user: str = ""
    key: str = ""
    known_hosts: str = "~/.ssh/known_hosts"
    folder: str = ".cache/sintra"
    python: str = ""
    bench: str = ""
    install: bool = False
    threads: int | None = None
    gpu_layers: int | None = None
    timeout_s: float = 3600.0


@dataclass
class TextsConf:
    """Disjoint texts; `second`, of another domain than calibration, is measured beside `report`
    (null: not at all).
    """

    calibration: str = "models/texts/calibration.txt"
    search: str = "models/texts/search.txt"
    report: str = "models/texts/report.txt"
    second: str | None = "models/texts/far.txt"


@dataclass
class CompressConf:
    """GPTQ and AWQ: bits and group size, the environment (auto, here), limits of time and memory
    for one checkpoint.

    checkpoint: a folder with a GPTQ checkpoint that exists already: measured as gptq_native instead
    of making one.
    """

    bits: int = 4
    group_size: int = 128
    python: str = "auto"
    checkpoint: str = ""
    timeout_s: float | None = None
    max_ram_gb: float | None = None


@dataclass
class ExecutorConf:
    """Where steps run: on this machine, as jobs of Slurm, as tasks of Ray. `_gb` is GiB.

    jobs: how many are under way at once elsewhere; measure: where steps that measure go (a
    partition, a custom resource).
    """

    name: str = "local"
    retries: int = 0
    jobs: int = 16
    cpus: int = 1
    mem_gb: float | None = None
    max_mem_gb: float | None = None
    gpus: int = 0
    measure: str | None = None
    partition: str | None = None
    minutes: int | None = None
    cluster: str = "slurm"
    sbatch: dict[str, str] = field(default_factory=dict)
    address: str | None = None
    resources: dict[str, float] = field(default_factory=dict)
    poll_s: float = 5.0


@dataclass
class TimeoutConf:
    """Seconds that a step of each stage may take (None: timeout_s, or the stage's own limit)."""

    fetch: float | None = None
    toolchain: float | None = None
    convert: float | None = None
    curvature: float | None = None
    prune: float | None = None
    quantize: float | None = None
    assemble: float | None = None
    refine: float | None = None
    polish: float | None = None
    distortion: float | None = None
    baseline: float | None = None
    quality: float | None = None
    speed: float | None = None
    memory: float | None = None
    tasks: float | None = None
    ab: float | None = None
    environment: float | None = None
    gptq: float | None = None
    awq: float | None = None
    gptq_native: float | None = None
    agreement: float | None = None
    quality_hf: float | None = None
    speed_hf: float | None = None
    memory_hf: float | None = None
    device_memory: float | None = None
    device_speed: float | None = None


@dataclass
class LimitsConf:
    """Of time and of this machine: minutes for one run; how many heavy steps at once, in how many
    GiB together; whether workers give way to everything else.
    """

    timeout: TimeoutConf = field(default_factory=TimeoutConf)
    study_minutes: float | None = None
    heavy: int = 1
    memory_gb: float | None = None
    background: bool = False


@dataclass
class NotifyConf:
    """Messages: the events that are sent, seconds a request may take, how often it is tried again."""

    on: list[str] = field(default_factory=lambda: ["met", "unmet", "failed"])
    timeout_s: float = 5.0
    retries: int = 4


@dataclass
class MlflowConf:
    """MLflow: the tracking server ("": MLFLOW_TRACKING_URI, else SQLite in outputs/mlflow), the
    experiment, whether winners go into its registry.
    """

    uri: str = ""
    experiment: str = "sintra"
    register: bool = True


@dataclass
class Config:
    """The whole of it."""

    hardware: HardwareConf = field(default_factory=HardwareConf)
    model: ModelConf = field(default_factory=ModelConf)
    goal: GoalConf = field(default_factory=GoalConf)
    planner: PlannerConf = field(default_factory=PlannerConf)
    probe: ProbeConf = field(default_factory=ProbeConf)
    store: StoreConf = field(default_factory=StoreConf)
    device: DeviceConf = field(default_factory=DeviceConf)
    texts: TextsConf = field(default_factory=TextsConf)
    formats: list[str] = field(default_factory=lambda: ["gguf"])
    compress: CompressConf = field(default_factory=CompressConf)
    executor: ExecutorConf = field(default_factory=ExecutorConf)
    limits: LimitsConf = field(default_factory=LimitsConf)
    progress: str = "auto"
    extra: list[str] = field(default_factory=list)
    listeners: list[str] = field(default_factory=list)
    notify: NotifyConf = field(default_factory=NotifyConf)
    mlflow: MlflowConf = field(default_factory=MlflowConf)
    seed: int = 0
    max_rounds: int = 12
    timeout_s: float | None = None
    refresh: bool = False
