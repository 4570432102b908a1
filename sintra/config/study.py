"""TODO."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from sintra.config import compose, study
from sintra.config import tasks as task_files
from sintra.config.options import GoalConf
from sintra.config.policy import measured_on
from sintra.core import plugins
from sintra.core.errors import UserError, nearest
from sintra.core.format import FORMATS, SPARSE, runnable_formats
from sintra.core.metrics import BY_NAME, LIMITS, OPTIMIZABLE, TASK_RETENTION, Metric
from sintra.core.types import Constraint, Goal, Hardware, Study

LOCAL = "local"


Conf = dict[str, Any]


def wanted(conf: Conf) -> dict[str, Any]:
    """What of the options device.* makes a study another one; empty without a board. Raises
    UserError.
    """
    if conf["name"] == LOCAL:
        if conf["host"]:
            raise UserError("device.host is for a board: add device=ssh")
        return {}
    if not conf["host"]:
        raise UserError(f"device={conf['name']} needs the board's name or address: device.host=...")
    if conf["threads"] is not None and conf["threads"] < 1:
        raise UserError(
            f"device.threads={conf['threads']} can't compute anything: give 1 or more, or leave "
            "it out"
        )
    return {
        k: conf[k]
        for k in ("name", "host", "port", "user", "python", "bench", "threads", "gpu_layers")
    }


GIB, MIB = 2**30, 2**20


def study_of(conf: dict[str, Any], raw: list[str]) -> Study:
    """The typed study of a composed configuration."""
    model = conf["model"]
    if not model["source"]:
        raise UserError("model.source is empty: give model=NAME, model=owner/name or model=FOLDER")
    if not 0 <= conf["probe"]["calibration_random"] <= 0.9:
        raise UserError(
            f"probe.calibration_random={conf['probe']['calibration_random']:g} is no share from 0 "
            "to 0.9"
        )
    return Study(
        id="",
        model=model["name"] or compose.slug(model["source"]),
        hardware=hardware_of(conf["hardware"]),
        goal=goal_of(conf["goal"], conf["hardware"], conf["probe"]["tasks"]),
        planner=conf["planner"]["name"],
        planner_options={k: v for k, v in conf["planner"].items() if k != "name"},
        probe={k: v for k, v in conf["probe"].items() if k != "name"},
        model_options=model_options(model),
        texts={k: v for k, v in conf["texts"].items() if v},
        seed=conf["seed"],
        max_rounds=conf["max_rounds"],
        overrides=tuple(raw),
        formats=formats_of(conf),
        compress=conf["compress"],
        measured_on=measured_on(conf),
        extra=extra_of(conf["extra"]),
        device=study.wanted(conf["device"]),
    )


def model_options(model: dict[str, Any]) -> dict[str, Any]:
    """What of a model's options steps depend on; trust_remote_code only where it was given."""
    return {"convert": model["convert"]} | (
        {"trust_remote_code": True} if model["trust_remote_code"] else {}
    )


def formats_of(conf: dict[str, Any]) -> tuple[str, ...]:
    """The formats asked for, checked; one that the device can't run is no mistake as long as
    another can.
    """
    asked, compress = tuple(dict.fromkeys(conf["formats"])), conf["compress"]
    for name in asked:
        if name in SPARSE:
            raise UserError(
                f"formats has {name!r}: llama.cpp and transformers store and multiply zeros like "
                "any number: no gain"
            )
        if name not in FORMATS:
            raise UserError(f"formats has {name!r}: {nearest(name, FORMATS)}")
    if not runnable_formats(asked, tuple(conf["hardware"]["runtimes"])):
        runs = ", ".join(conf["hardware"]["runtimes"])
        raise UserError(
            f"{conf['hardware']['name']} runs none of formats={list(asked)}: it has {runs} "
            "(hardware.runtimes)"
        )
    if conf["model"]["trust_remote_code"] and asked != ("gguf",):
        raise UserError(
            "model.trust_remote_code=true goes with formats=[gguf] only: checkpoints with code of "
            "their own aren't made"
        )
    if compress["checkpoint"] and "gptq_native" not in asked:
        raise UserError(
            "compress.checkpoint is measured as gptq_native: give formats=[gguf,gptq_native]"
        )
    if compress["bits"] not in (4, 8):
        raise UserError(
            f"compress.bits={compress['bits']} isn't packed by these formats: use 4 or 8"
        )
    if compress["group_size"] not in (32, 64, 128):
        raise UserError(
            f"compress.group_size={compress['group_size']} isn't known to the kernels: use 32, 64 "
            "or 128"
        )
    if compress["python"] not in ("auto", "here"):
        raise UserError(
            f"compress.python={compress['python']!r}: use auto (an environment in the cache) or "
            "here"
        )
    return asked


def extra_of(names: list[str]) -> tuple[str, ...]:
    """The stages and probes of plugins that every finalist goes through, checked."""
    for name in dict.fromkeys(names):
        known = {
            e.name for group in plugins.STEP_GROUPS for e in plugins.entry_points_in(group)
        } - plugins.own_names(*plugins.STEP_GROUPS)
        if name not in known:
            raise UserError(
                f"extra has {name!r}, which no plugin offers (doit plugins): "
                f"{nearest(name, known) if known else 'none'}"
            )
        try:
            plugins.load_step(name)
        except Exception as error:  # somebody else's module
            raise UserError(
                f"extra has {name!r}, which can't be loaded: {type(error).__name__}: {error}"
            ) from None
    return tuple(dict.fromkeys(names))


def hardware_of(conf: dict[str, Any]) -> Hardware:
    """A profile in base units."""
    return Hardware(
        name=conf["name"],
        title=conf["title"],
        backend=conf["backend"],
        cores=conf["cores"],
        isa=conf["isa"],
        ram_bytes=int(conf["ram_gb"] * GIB),
        usable_bytes=int(conf["usable_gb"] * GIB),
        bandwidth=conf["bandwidth_gbs"] * 1e9,
        efficiency=conf["efficiency"],
        efficiency_spread=conf["efficiency_spread"],
        overhead_s_per_layer=conf["overhead_us_per_layer"] * 1e-6,
        flops=conf["tflops"] * 1e12 if conf["tflops"] else None,
        thermal=conf["thermal"],
        runtimes=tuple(conf["runtimes"]),
        overhead_spread=conf["overhead_spread"],
        bytes_per_weight=conf["bytes_per_weight"],
        k_quant=conf["k_quant"],
        flops_spread=conf["tflops_spread"],
        storage=conf["storage_mbs"] * 1e6 if conf["storage_mbs"] else None,
        host_usable_bytes=int(conf["host_usable_gb"] * GIB),
        host_bandwidth=conf["host_bandwidth_gbs"] * 1e9,
        type_costs=conf["type_costs"],
        runtime_bytes=int(conf["runtime_mib"] * MIB),
        runtime_spread=int(conf["runtime_spread_mib"] * MIB),
    )


def goal_of(conf: dict[str, Any], hardware: dict[str, Any], tasks: list[str] | None = None) -> Goal:
    """The goal's limits in base units; with fit_memory, the device's usable memory is one of them."""
    found = [
        limit_of(LIMITS[f.name], conf[f.name])
        for f in fields(GoalConf)
        if f.name in LIMITS and conf[f.name] is not None
    ]
    found += task_limits(conf["min_task_retention"], tasks or [])
    if conf["fit_memory"]:
        memory, usable = BY_NAME["device_ram_bytes"], hardware["usable_gb"] * GIB
        found.append(Constraint(memory.name, memory.op, usable, f"hardware={hardware['name']}"))
    if conf["optimise"] not in OPTIMIZABLE:
        raise UserError(
            f"goal.optimise={conf['optimise']} isn't a metric: "
            f"{nearest(conf['optimise'], OPTIMIZABLE)}"
        )
    return Goal(
        conf["name"],
        tuple(found),
        conf["optimise"],
        BY_NAME[conf["optimise"]].sense,
        conf["accept_simulated"],
        conf["enforce_memory"],
    )


def limit_of(metric: Metric, value: float, task: str = "") -> Constraint:
    """Return the limit that a metric's option sets, in base units; task: of a task's metric."""
    return Constraint(
        metric.name.format(task=task),
        metric.op,
        value * metric.option_scale,
        f"goal.{metric.option}",
    )


def task_limits(least: float | None, tasks: list[str]) -> list[Constraint]:
    """The share of the baseline's score that every task must keep, as limits."""
    if least is None:
        return []
    if not tasks:
        raise UserError(
            "goal.min_task_retention needs tasks: add probe.tasks=[fable], a YAML file of yours "
            "or lm-eval's names"
        )
    if not 0 < least <= 1:
        raise UserError(
            f"goal.min_task_retention={least:g} is no share of the baseline's score: 0.98 keeps "
            "98 % of it"
        )
    return [limit_of(TASK_RETENTION, least, task_files.name_of(t)) for t in tasks]
