"""Estimate a model on devices, detect this machine, and calibrate its profile."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict, cast

from sintra.config.options import Config
from sintra.config.quoting import user_path
from sintra.config.study import GIB, hardware_of, served_context
from sintra.core.artifact import Artifact
from sintra.core.errors import UserError
from sintra.core.kv_cache import checked_kv
from sintra.core.metrics import at_depth
from sintra.core.stage import machine
from sintra.core.types import Hardware, Measurement
from sintra.formats.checkpoint.config_values import trained_context
from sintra.formats.checkpoint.json_files import read_object
from sintra.formats.gguf.layout import read_layout
from sintra.hardware import profiles
from sintra.hardware.detect import auto
from sintra.hardware.detect.profile import AUTO_PROFILE, write_profile
from sintra.hardware.estimate import architecture
from sintra.hardware.estimate.attention import attention_flops, cached_elements
from sintra.hardware.estimate.calibrate import MeasuredSpeed, read_speeds, refine_profile
from sintra.hardware.estimate.estimate import (
    UBATCH,
    Shape,
    compute_bytes,
    estimate_metrics,
    has_small_layers,
    kv_bytes,
    offload_layers,
    weight_bytes_read,
    weights_read,
)
from sintra.hardware.estimate.prompt_speed import MeasuredPrompt, refine_prompts
from sintra.probes.depth import GENERATE
from sintra.probes.measurements import MEASUREMENTS_FILE
from sintra.store.entries import Entry
from sintra.store.store import Store
from sintra.study.workspace import cache_root, composed, model_folder

PRESETS = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
FILE_STAGES = ("quantize", "assemble", "convert", "refine", "polish")  # with a layout.json


class EstimatedValue(TypedDict):
    """A number with its 90 % interval."""

    value: float
    low: float
    high: float
    unit: str
    how: str  # estimated, simulated


class OffloadRow(TypedDict):
    """How a variant that doesn't fit a card is split between the card and its host."""

    layers: int  # on the card
    of: int  # layers in all
    device_bytes: float  # on the card
    host_bytes: float  # on the host


class EstimateRow(TypedDict, total=False):
    """One variant on one device."""

    type: str  # a preset, or the name of a GGUF
    device: str  # name of the profile
    context: int  # tokens
    kv: str  # type of the KV cache
    weight_bytes: int
    device_tg_tps: EstimatedValue  # decoding
    device_ram_bytes: EstimatedValue
    device_tg_tps_sustained: EstimatedValue  # decoding on a hot device
    device_pp_tps: EstimatedValue  # prompt processing
    device_load_s: EstimatedValue
    fits: bool  # whether the device's memory holds it
    offload: OffloadRow  # where it doesn't, but card and host together do
    small_layers: bool  # whether a GPU's numbers are bounded rather than fitted for its layers


def device_of(profile: profiles.ProfileFile) -> Hardware:
    """Return a profile file's device in base units, with defaults for what it leaves out."""
    return hardware_of(profiles.profile_conf(profile))


def detect(root: Path, raw: list[str], out: str, quick: bool, format: str) -> None:
    """Print what this machine is, and write its profile to `out` or where hardware=auto looks."""
    path = root / user_path(out) if out else cache_root(root, raw) / AUTO_PROFILE
    detection = auto.detect_machine(path, not quick)
    if format == "json":
        print(json.dumps(detection.as_json(), indent=1))
        return
    print(auto.format_detection(detection))
    print(f"written to {out or path}: hardware={out or 'auto'} means this machine")


@dataclass(frozen=True)
class EstimatedModel:
    """What an estimate reads of a model."""

    shapes: dict[str, Shape]  # by type
    context: int  # that it is served with, tokens


def model_of(root: Path, conf: Config) -> EstimatedModel:
    """Return the shapes of a model by type, and the context that it is served with.

    The shapes are those of the presets for a model folder (config.json is enough) or a hub model,
    and of the file for a GGUF. Raises UserError.
    """
    source = conf.model.source
    path = root / user_path(source)
    if path.suffix == ".gguf" and path.is_file():
        try:
            layout = read_layout(path)
            shapes = {path.stem: Shape.of(layout)}
        except (ValueError, KeyError) as error:
            raise UserError(f"{source} is no GGUF that can be estimated: {error}") from None
        return served_model(conf, shapes, layout["context"])
    folder = model_folder(root, source)
    config = folder / "config.json" if folder else download_config(source, conf.model.revision)
    model = architecture.read_architecture(config)
    shapes = {preset: architecture.shape_of_preset(model, preset) for preset in PRESETS}
    return served_model(conf, shapes, trained_context(read_object(config)))


def served_model(conf: Config, shapes: dict[str, Shape], own: int) -> EstimatedModel:
    """Return a model as it is served. own: the context that it was trained for, tokens."""
    name = conf.model.name or conf.model.source
    return EstimatedModel(shapes, served_context(conf.goal.context, own, name))


def download_config(model: str, revision: str) -> Path:
    """Download a hub model's config.json and nothing else of it. Raises UserError."""
    from huggingface_hub import hf_hub_download  # slow to import; for hub models only

    try:
        return Path(hf_hub_download(model, "config.json", revision=revision))
    except Exception as error:  # the hub's own kinds of errors are many, and none is ours
        raise UserError(
            f"the config of {model} can't be had: {str(error).splitlines()[0]}"
        ) from None


def estimated_value(estimate: Measurement) -> EstimatedValue:
    """Return an estimate with its interval as a row has it."""
    assert estimate.low is not None
    assert estimate.high is not None
    return {
        "value": estimate.value,
        "low": estimate.low,
        "high": estimate.high,
        "unit": estimate.unit,
        "how": estimate.how,
    }


def estimate_row(
    type_: str, shape: Shape, device: Hardware, context: int, kv: str, depth: int = 0
) -> EstimateRow:
    """Return one variant on one device; its speed is that of the split where it doesn't fit."""
    rows = estimate_metrics(shape, device, context, kv, depth)
    values = {m.metric: estimated_value(m) for m in rows}
    fits = values["device_ram_bytes"]["value"] <= device.usable_bytes
    split = None if fits else offload_layers(shape, device, context, kv, depth)
    if split:
        speed = values["device_tg_tps"]
        values["device_tg_tps"] = {
            **speed,
            "value": split.tps,
            "low": split.low,
            "high": split.high,
        }
    row: dict[str, object] = {
        "type": type_,
        "device": device.name,
        "context": context,
        "kv": kv,
        "weight_bytes": shape.weight_bytes,
        **values,
        "fits": fits,
        "small_layers": has_small_layers(shape, device),
    }
    if split:
        row["offload"] = {
            "layers": split.layers,
            "of": shape.layers,
            "device_bytes": split.device_bytes,
            "host_bytes": split.host_bytes,
        }
    return cast(EstimateRow, row)


def show(root: Path, raw: list[str], every: bool, type_: str, format: str) -> None:
    """Print the table of a device's types, or of one type on every device."""
    conf = composed(root, raw)
    model, kv = model_of(root, conf), checked_kv(conf.planner.kv)[0]
    shapes, context, depth = model.shapes, model.context, conf.goal.depth
    if every:
        kind = type_ if type_ in shapes else next(iter(shapes)) if len(shapes) == 1 else ""
        if not kind:
            raise UserError(f"--type {type_} isn't known: use one of {', '.join(shapes)}")
        devices = [device_of(p) for p in profiles.read_profiles(root).values()]
        rows = [estimate_row(kind, shapes[kind], device, context, kv, depth) for device in devices]
        rows.sort(key=sort_key)
    else:
        device = hardware_of(conf.hardware)
        rows = [
            estimate_row(kind, shape, device, context, kv, depth) for kind, shape in shapes.items()
        ]
    if format == "json":
        print(json.dumps(rows, indent=1))
        return
    names = [row["device"] if every else row["type"] for row in rows]
    print(format_table("device" if every else "type", names, rows, context, kv))


def format_table(
    title: str, names: list[str], rows: list[EstimateRow], context: int, kv: str
) -> str:
    """Return rows in 80 columns; `title` stands above their names."""
    lines = [
        f"{title:<24}{'GB':>7}{'tokens/s':>10}{'90 % interval':>18}{'prefill':>9}{'RAM GB':>8}  "
        "fits"
    ]
    for name, row in zip(names, rows, strict=True):
        speed = row["device_tg_tps"]
        prefill = format_number(row["device_pp_tps"]["value"]) if "device_pp_tps" in row else "-"
        lines.append(
            f"{name:<24}{format_number(row['weight_bytes'] / 1e9):>7}"
            f"{format_number(speed['value']):>10}{format_number(speed['low']):>10}"
            f"{format_number(speed['high']):>8}{prefill:>9}"
            f"{row['device_ram_bytes']['value'] / GIB:>8.2f}  {format_fit(row)}"
        )
    lines += [
        f"Estimated at context {context} with a {kv} cache; nothing was built or run.",
        "GB are 10^9 bytes, RAM in GiB.",
    ]
    if any(row.get("small_layers") for row in rows):
        lines += [
            "Layers this small were not fitted on GPUs: there the interval is wide, and",
            "prefill may have no estimate (-).",
        ]
    return "\n".join(lines)


def sort_key(row: EstimateRow) -> tuple[bool, float]:
    """Return a key that sorts what fits before what doesn't, the fastest first."""
    return not (row["fits"] or "offload" in row), -float(row["device_tg_tps"]["value"])


def format_number(value: float) -> str:
    """Return three digits, without an exponent where numbers are large."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def format_fit(row: EstimateRow) -> str:
    """Return whether a variant fits, and how."""
    if row["fits"]:
        return "yes"
    split = row.get("offload")
    return f"{split['layers']} of {split['of']} layers on the card" if split else "no"


def calibrate(root: Path, raw: list[str], csv: str, out: str) -> None:
    """Refine the composed profile by measurements, and write it to `out`.

    They are those of a CSV, or the measured variants of this cache. Raises UserError.
    """
    profile, cache = composed(root, raw).hardware, cache_root(root, raw)
    rows = read_speeds(root / user_path(csv)) if csv else measured_here(cache)
    if not rows:
        raise UserError(
            "nothing was measured here yet: run `doit optimize` first, or give --csv FILE"
        )
    prompts = [] if csv else measured_prompts(cache)
    refined = refine_prompts(refine_profile(profile, rows), prompts)
    where = csv or f"measured on {machine()}"
    path = root / user_path(out) if out else cache / AUTO_PROFILE
    comment = f"{profile.name}, calibrated by {len(rows)} measurements ({where})"
    write_profile(path, asdict(refined), [comment])
    before, after = asdict(profile), asdict(refined)
    for name in before:
        if (
            name.startswith(("efficiency", "overhead", "runtime_", "attention", "tflops"))
            and after[name] != before[name]
        ):
            print(f"{name:<22} {format_value(before[name])} -> {format_value(after[name])}")
    if refined.type_costs:
        costs = ", ".join(f"{t} {cost:g}" for t, cost in refined.type_costs.items())
        print(f"{'a byte of':<22} {costs}")
    print(f"{len(rows)} measurements; written to {out or path}: hardware={out or 'auto'}")


def format_value(value: float | None) -> str:
    """Return a profile's number, or that there is none."""
    return "unknown" if value is None else f"{value:g}"


def measured_here(cache: Path) -> list[MeasuredSpeed]:
    """Return the decode speeds that the cache holds, measured on a machine like this one.

    Each comes with its file's shape, and the memory that the process held beside it, where that was
    measured too.
    """
    store = Store(cache)
    entries = list(store.read_entries())
    shapes = measured_shapes(store, entries)
    memory: dict[str, float] = {}
    speeds: list[MeasuredSpeed] = []
    for entry in entries:
        file = measured_file(entry, "memory")
        if file in shapes and (ram := ram_beside(store, entry, shapes[file])) is not None:
            memory[file] = ram
    for entry in entries:
        file = measured_file(entry, "speed")
        if file in shapes:
            speeds += speeds_of(store, entry, shapes[file], memory.get(file))
    return speeds


def speeds_of(
    store: Store, entry: Entry, shape: Shape, more_ram: float | None
) -> Iterator[MeasuredSpeed]:
    """Yield the decode speeds of a probe's entry: with an empty cache, and behind its depths."""
    params = entry["action"]["params"]
    if params.get("kv", "f16") != "f16":
        return
    for depth in (0, *params.get("depth", ())):
        metric = at_depth("tg_tps", depth) if depth else "tg_tps"
        tps = measured_value(store, entry, metric)
        if tps is not None:
            cached = depth + min(params["generate"], GENERATE if depth else params["generate"]) / 2
            yield MeasuredSpeed(
                read=weight_bytes_read(shape),
                weights=weights_read(shape),
                layers=shape.layers,
                tps=tps,
                types=shape.types,
                more_ram=None if depth else more_ram,
                cached=2 * cached_elements(shape, cached),
                shared=shape.heads / max(1, shape.kv_heads),
                deep=depth > 0,
            )


def measured_prompts(cache: Path) -> list[MeasuredPrompt]:
    """Return the speeds of prompts that the cache holds, measured on a machine like this one."""
    store = Store(cache)
    entries = list(store.read_entries())
    shapes = measured_shapes(store, entries)
    rows = []
    for entry in entries:
        file = measured_file(entry, "speed")
        if file not in shapes:
            continue
        shape, params = shapes[file], entry["action"]["params"]
        for depth in (0, *params.get("depth", ())):
            metric = at_depth("pp_tps", depth) if depth else "pp_tps"
            if (tps := measured_value(store, entry, metric)) is not None:
                mean = depth + min(params["prompt"], UBATCH) / 2
                weights = 2 * shape.parameters * shape.active
                rows.append(MeasuredPrompt(weights, attention_flops(shape, mean), tps, depth > 0))
    return rows


def measured_shapes(store: Store, entries: list[Entry]) -> dict[str, Shape]:
    """Return the shapes of the cache's model files by the artifact's digest."""
    artifacts = [store.lookup(e["key"]) for e in entries if e.get("stage") in FILE_STAGES]
    return {
        a.digest: Shape.of(store.read_json(a, "layout.json"))
        for a in artifacts
        if isinstance(a, Artifact)
    }


def measured_file(entry: Entry, stage: str) -> str:
    """Return the digest of the file that a probe measured; "" for an entry of another stage."""
    return str(entry["action"]["inputs"]["gguf"]) if entry.get("stage") == stage else ""


def measured_value(store: Store, entry: Entry, metric: str) -> float | None:
    """Return a number of a probe's artifact, where it was measured on a machine like this one."""
    artifact = store.lookup(entry["key"])
    rows: list[Mapping[str, Any]] = (
        store.read_json(artifact, MEASUREMENTS_FILE) if isinstance(artifact, Artifact) else []
    )
    return next(
        (m["value"] for m in rows if m["metric"] == metric and m.get("where") == machine()), None
    )


def ram_beside(store: Store, entry: Entry, shape: Shape) -> float | None:
    """Return the bytes that a measured process held beyond weights, KV cache and compute buffer."""
    peak, params = measured_value(store, entry, "ram_peak_bytes"), entry["action"]["params"]
    if peak is None:
        return None
    weights_and_buffer = shape.weight_bytes + compute_bytes(shape, params["context"])
    return peak - weights_and_buffer - kv_bytes(shape, params["context"], params.get("kv", "f16"))
