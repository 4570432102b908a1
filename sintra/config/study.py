"""Turn checked options into a study: a frozen value with everything that one `optimize` needs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, replace

from sintra.config.options import (
    CompressConf,
    Config,
    DeviceConf,
    GoalConf,
    HardwareConf,
    PlannerConf,
    ProbeConf,
    unnamed,
)
from sintra.config.policy import measured_on
from sintra.config.slugs import slug
from sintra.config.tasks.files import task_name
from sintra.config.texts import Texts, texts_of
from sintra.core import plugins
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError, nearest
from sintra.core.format import PLANNED, SPARSE, runnable_formats
from sintra.core.kv_cache import checked_kv
from sintra.core.metrics import BY_NAME, LIMITS, OPTIMIZABLE, TASK_RETENTION, Metric
from sintra.core.types import Board, Constraint, Goal, Hardware

LOCAL = "local"  # device=local: no board
UNSET: dict[str, object] = {
    "attention": 0.0,
    "attention_flops": None,
    "type_costs": {},
    "runtime_bytes": 100 * 2**20,
    "runtime_spread": 50 * 2**20,
}

GIB, MIB = 2**30, 2**20
DEFAULT_CONTEXT = 4096  # tokens; more of a model's own is used only where the user asks


@dataclass(frozen=True)
class Study:
    """Everything that one `optimize` needs."""

    id: str  # a readable name and a digest; empty until the sources are pinned
    model: str  # the model's short name
    hardware: Hardware  # the device profile
    goal: Goal  # limits, and what is optimized under them
    planner: PlannerConf
    probe: ProbeConf
    texts: Texts  # what it is calibrated and judged on
    seed: int  # of bootstraps
    max_rounds: int  # rounds that planners may propose
    overrides: tuple[str, ...]  # the command line, raw
    convert: str = "f16"  # 16-bit type of the converted GGUF
    trust_remote_code: bool = False  # whether the model's own Python may be run
    check: bool = True  # whether the converted GGUF is compared with the original
    balance: str = "auto"  # of the model's columns: always, never, or auto, by its size
    formats: tuple[str, ...] = ("gguf",)  # file formats to make and compare
    compress: CompressConf = field(
        default_factory=CompressConf
    )  # of GPTQ and AWQ; checkpoint: its digest
    measured_on: str = ""  # name of the machines that measure; "": this one
    extra: tuple[str, ...] = ()  # stages and probes of plugins for every finalist
    device: DeviceConf = field(
        default_factory=DeviceConf
    )  # how a board is reached, where there is one
    board: Board | None = None  # what the board is, once it has been asked
    context: int = DEFAULT_CONTEXT  # that the model is served with, tokens
    depth: int = 0  # tokens in the cache when speed is judged

    @property
    def on_board(self) -> bool:
        """Return whether speed and memory are measured on a board."""
        return self.device.name != LOCAL

    @property
    def base(self) -> list[object]:
        """Return what steps depend on beside sources and recipes, in JSON's types."""
        return [
            self.convert,
            self.trust_remote_code,
            probe_key(self.probe),
            self.seed,
            asdict(self.compress),
            self.measured_on,
            device_key(self.device),
            *([self.balance] if self.balance != "auto" else []),
            self.context,
        ]


def study_id(study: Study, source: str, revision: str, texts: list[str]) -> str:
    """Return a study's readable name with a digest of all that makes it another study.

    source: the hub id, "" for a folder; revision: the folder's digest, or the hub's revision;
    texts: the digests of the texts and tasks.
    """
    mark = sha256(canonical([identity_of(study), source, revision, texts]))
    return f"{study.model}-{study.hardware.name}-{study.goal.name}-{mark[:8]}"


def identity_of(study: Study) -> dict[str, object]:
    """Return what makes a study another one, in JSON's types, texts and sources left out.

    Options that came later are part of it only where they are set, so that a new option renames
    no study: its rounds and what it taught are found under its id.
    """
    hardware = {k: v for k, v in asdict(study.hardware).items() if UNSET.get(k, ...) != v}
    others = study.formats != (PLANNED,)
    if not others:
        del hardware["runtimes"]
    code = {"trust_remote_code": True} if study.trust_remote_code else {}
    optional = {
        "formats": list(study.formats) if others else None,
        "compress": asdict(study.compress) if others else None,
        "measured_on": study.measured_on,
        "extra": list(study.extra),
        "device": device_key(study.device),
        "balance": study.balance if study.balance != "auto" else None,
        "depth": study.depth,
        "context": study.context if study.context != study.probe.context else None,
    }
    return {
        "model": study.model,
        "hardware": hardware,
        "goal": asdict(study.goal),
        "planner": study.planner.name,
        "planner_options": planner_key(study.planner),
        "probe": probe_key(study.probe),
        "model_options": {"convert": study.convert} | code,
        "seed": study.seed,
        "max_rounds": study.max_rounds,
    } | {name: value for name, value in optional.items() if value}


def study_of(config: Config, raw: list[str]) -> Study:
    """Return the study of checked options, without its id. Raises UserError."""
    model, probe = config.model, config.probe
    if not model.source:
        raise UserError(
            "model.source is empty: give model=NAME, model=owner/name, model=FOLDER or "
            "model=FILE.gguf"
        )
    return Study(
        id="",
        model=model.name or slug(model.source),
        hardware=hardware_of(config.hardware),
        goal=goal_of(config.goal, config.hardware, probe.tasks),
        planner=replace(config.planner, kv=checked_kv(config.planner.kv)),
        probe=probe,
        texts=texts_of(config),
        seed=config.seed,
        max_rounds=config.max_rounds,
        overrides=tuple(raw),
        convert=model.convert,
        trust_remote_code=model.trust_remote_code,
        check=model.check,
        balance=model.balance,
        formats=formats_of(config),
        compress=config.compress,
        measured_on=measured_on(config.executor),
        extra=extra_of(config.extra),
        device=checked_device(config.device),
        context=config.goal.context or DEFAULT_CONTEXT,
        depth=config.goal.depth,
    )


def served_context(wanted: int | None, own: int, model: str) -> int:
    """Return the context that a model is served with, tokens.

    wanted: goal.context; own: what the model was trained for, 0 where unknown. Raises UserError
    for more than the model has.
    """
    if not own:
        return wanted or DEFAULT_CONTEXT
    if wanted and wanted > own:
        raise UserError(
            f"goal.context={wanted} is more than the {own} tokens that {model} was trained for: "
            f"use {own} or less"
        )
    return wanted or min(own, DEFAULT_CONTEXT)


def check_depth(study: Study) -> None:
    """Raise UserError where speed can't be judged with so many tokens in the cache."""
    if study.depth >= study.context:
        raise UserError(
            f"goal.depth={study.depth} leaves no room for an answer in the context of "
            f"{study.context} tokens: use less, or raise goal.context"
        )
    if study.depth and study.on_board:
        raise UserError(
            f"goal.depth={study.depth}: a board's speed is measured with an empty cache; use "
            "goal.depth=0"
        )


def planner_key(planner: PlannerConf) -> dict[str, object]:
    """Return a planner's options as they are part of a study's identity.

    An option that came later is left out where it isn't set.
    """
    later = {"sensitivity": "auto"}
    return {name: v for name, v in unnamed(planner).items() if later.get(name, ...) != v}


def probe_key(probe: ProbeConf) -> dict[str, object]:
    """Return what of the options probe.* makes a study another one."""
    return {name: v for name, v in unnamed(probe).items() if name != "depth" or v}


def device_key(device: DeviceConf) -> dict[str, object]:
    """Return what of the options device.* makes a study another one; empty without a board."""
    if device.name == LOCAL:
        return {}
    names = ("name", "host", "port", "user", "python", "bench", "threads", "gpu_layers")
    return {name: getattr(device, name) for name in names}


def checked_device(device: DeviceConf) -> DeviceConf:
    """Return the options as they are. Raises UserError where they contradict each other."""
    if device.name == LOCAL:
        if device.host:
            raise UserError("device.host is for a board: add device=ssh")
        return device
    if not device.host:
        raise UserError(f"device={device.name} needs the board's name or address: device.host=...")
    return device


def formats_of(config: Config) -> tuple[str, ...]:
    """Return the formats that are asked for.

    Raises UserError for an unknown one, for options that don't go together, and where the device
    can run none of them.
    """
    names = tuple(dict.fromkeys(config.formats))
    for name in names:
        if name in SPARSE:
            raise UserError(
                f"formats has {name!r}: llama.cpp and transformers store and multiply zeros like "
                "any number: no gain"
            )
        if not plugins.has("formats", name):
            raise UserError(f"formats has {name!r}: {nearest(name, plugins.by_name('formats'))}")
    runtimes = config.hardware.runtimes
    if not runnable_formats(names, runtimes):
        raise UserError(
            f"{config.hardware.name} runs none of formats={list(names)}: it has "
            f"{', '.join(runtimes)} (hardware.runtimes)"
        )
    if config.model.is_gguf and names != (PLANNED,):
        raise UserError(
            f"formats={list(names)} needs the model's folder: a GGUF is the source of "
            "formats=[gguf] only"
        )
    if config.model.trust_remote_code and names != (PLANNED,):
        raise UserError(
            "model.trust_remote_code=true goes with formats=[gguf] only: checkpoints with code of "
            "their own aren't made"
        )
    check_compress(config.compress, names)
    return names


def check_compress(compress: CompressConf, formats: tuple[str, ...]) -> None:
    """Raise UserError for options of GPTQ and AWQ that can't be met."""
    if compress.checkpoint and "gptq_native" not in formats:
        raise UserError(
            "compress.checkpoint is measured as gptq_native: give formats=[gguf,gptq_native]"
        )
    if compress.bits not in (4, 8):
        raise UserError(f"compress.bits={compress.bits} isn't packed by these formats: use 4 or 8")
    if compress.group_size not in (32, 64, 128):
        raise UserError(
            f"compress.group_size={compress.group_size} isn't known to the kernels: use 32, 64 or "
            "128"
        )
    if compress.python not in ("auto", "here"):
        raise UserError(
            f"compress.python={compress.python!r}: use auto (an environment in the cache) or here"
        )


def extra_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return the stages and probes of plugins that every finalist goes through.

    Raises UserError for one that isn't installed or can't be loaded.
    """
    for name in dict.fromkeys(names):
        offered = {
            e.name for group in ("stages", "probes") for e in plugins.entry_points_in(group)
        } - plugins.own_names(*plugins.STEP_GROUPS)
        if name not in offered:
            raise UserError(
                f"extra has {name!r}, which no plugin offers (doit plugins): "
                f"{nearest(name, offered) if offered else 'none'}"
            )
        try:
            plugins.load_step(name)
        except Exception as error:  # somebody else's module
            raise UserError(
                f"extra has {name!r}, which can't be loaded: {type(error).__name__}: {error}"
            ) from None
    return tuple(dict.fromkeys(names))


def hardware_of(conf: HardwareConf) -> Hardware:
    """Return a device profile in base units: bytes, bytes per second, seconds, FLOP per second."""
    return Hardware(
        name=conf.name,
        title=conf.title,
        backend=conf.backend,
        cores=conf.cores,
        isa=conf.isa,
        ram_bytes=int(conf.ram_gb * GIB),
        usable_bytes=int(conf.usable_gb * GIB),
        bandwidth=conf.bandwidth_gbs * 1e9,
        efficiency=conf.efficiency,
        efficiency_spread=conf.efficiency_spread,
        overhead_s_per_layer=conf.overhead_us_per_layer * 1e-6,
        flops=conf.tflops * 1e12 if conf.tflops else None,
        thermal=conf.thermal,
        runtimes=conf.runtimes,
        overhead_spread=conf.overhead_spread,
        bytes_per_weight=conf.bytes_per_weight,
        k_quant=conf.k_quant,
        flops_spread=conf.tflops_spread,
        storage=conf.storage_mbs * 1e6 if conf.storage_mbs else None,
        host_usable_bytes=int(conf.host_usable_gb * GIB),
        host_bandwidth=conf.host_bandwidth_gbs * 1e9,
        type_costs=conf.type_costs,
        runtime_bytes=int(conf.runtime_mib * MIB),
        runtime_spread=int(conf.runtime_spread_mib * MIB),
        attention=conf.attention,
        attention_flops=conf.attention_tflops * 1e12 if conf.attention_tflops else None,
    )


def goal_of(conf: GoalConf, hardware: HardwareConf, tasks: tuple[str, ...] = ()) -> Goal:
    """Return the goal's limits in base units; with fit_memory the usable memory is one of them.

    Raises UserError for an unknown metric, or a limit on tasks without tasks.
    """
    limits = [
        limit_of(LIMITS[option.name], getattr(conf, option.name))
        for option in fields(conf)
        if option.name in LIMITS and getattr(conf, option.name) is not None
    ]
    limits += task_limits(conf.min_task_retention, tasks)
    if conf.fit_memory:
        memory, room = BY_NAME["device_ram_bytes"], hardware.usable_gb * GIB
        limits.append(Constraint(memory.name, memory.op, room, f"hardware={hardware.name}"))
    if conf.optimise not in OPTIMIZABLE:
        raise UserError(
            f"goal.optimise={conf.optimise} isn't a metric: {nearest(conf.optimise, OPTIMIZABLE)}"
        )
    return Goal(
        conf.name,
        tuple(limits),
        conf.optimise,
        BY_NAME[conf.optimise].sense,
        conf.accept_simulated,
        conf.enforce_memory,
    )


def task_limits(least: float | None, tasks: tuple[str, ...]) -> list[Constraint]:
    """Return the share of the baseline's score that every task must keep, as limits.

    Raises UserError where there is no task.
    """
    if least is None:
        return []
    if not tasks:
        raise UserError(
            "goal.min_task_retention needs tasks: add probe.tasks=[fable], a YAML file of yours "
            "or lm-eval's names"
        )
    return [limit_of(TASK_RETENTION, least, task_name(item)) for item in tasks]


def limit_of(metric: Metric, value: float, task: str = "") -> Constraint:
    """Return the limit that a metric's option sets, in base units; task: of a task's metric."""
    return Constraint(
        metric.name.format(task=task),
        metric.op,
        value * metric.option_scale,
        f"goal.{metric.option}",
    )
