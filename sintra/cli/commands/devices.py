"""`doit estimate` and `doit detect`: what a model would do on a device or on every one, and what
this machine is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sintra.config.options import Config, HardwareConf, from_json
from sintra.config.study import GIB, hardware_of
from sintra.core.errors import UserError
from sintra.core.types import Hardware
from sintra.hardware import profiles
from sintra.hardware.estimate import architecture
from sintra.hardware.estimate.estimate import Shape, estimate, offload
from sintra.study.workspace import composed, model_folder

ROWS = ("Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q3_K_M", "Q2_K")
Row = dict[str, Any]


def device_of(profile: Mapping[str, Any]) -> Hardware:
    """Return a profile file's device in base units, with defaults for what it leaves out."""
    return hardware_of(from_json(HardwareConf, asdict(HardwareConf()) | dict(profile)))


def detect(root: Path, raw: list[str], out: str, quick: bool, format: str) -> None:
    """Print what this machine is and write its profile: to `out`, or where hardware=auto looks."""
    from sintra.hardware.detect import auto
    from sintra.study.workspace import cache_root

    path = root / Path(out).expanduser() if out else cache_root(root, raw) / auto.AUTO
    found = auto.detect(path, not quick)
    if format == "json":
        print(json.dumps(found, indent=1))
        return
    print(auto.text(found))
    print(f"written to {out or path}: hardware={out or 'auto'} means this machine")


def shapes(root: Path, conf: Config) -> dict[str, Shape]:
    """Shapes by type: of the presets for a model folder (config.json is enough) or a hub model, of
    the file for a GGUF.
    """
    text = conf.model.source
    path = root / Path(text).expanduser()
    if path.suffix == ".gguf" and path.is_file():
        from sintra.formats.gguf.layout import read_layout

        try:
            return {path.stem: Shape.of(read_layout(path))}
        except (ValueError, KeyError) as error:
            raise UserError(f"{text} is no GGUF that can be estimated: {error}") from None
    folder = model_folder(root, text)
    of = architecture.read(
        (folder / "config.json") if folder else from_hub(text, conf.model.revision)
    )
    return {preset: architecture.shape(of, preset) for preset in ("F16", *ROWS)}


def from_hub(name: str, revision: str) -> Path:
    """A hub model's config.json and nothing else of it."""
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(name, "config.json", revision=revision))
    except Exception as error:  # the hub's own kinds of errors are many, and none is ours
        raise UserError(
            f"the config of {name} can't be had: {str(error).splitlines()[0]}"
        ) from None


def row(shape: Shape, device: Hardware, context: int, kv: str) -> Row:
    """One variant on one device, every number with its interval [low, high]."""
    found: Row = {
        "device": device.name,
        "context": context,
        "kv": kv,
        "weight_bytes": shape.weight_bytes,
    }
    for m in estimate(shape, device, context, kv):
        found[m.metric] = {
            "value": m.value,
            "low": m.low,
            "high": m.high,
            "unit": m.unit,
            "how": m.how,
        }
    found["fits"] = found["device_ram_bytes"]["value"] <= device.usable_bytes
    split = None if found["fits"] else offload(shape, device, context, kv)
    if split:
        found["offload"] = {
            "layers": split.layers,
            "of": shape.layers,
            "device_bytes": split.device_bytes,
            "host_bytes": split.host_bytes,
        }
        found["device_tg_tps"] |= {"value": split.tps, "low": split.low, "high": split.high}
    return found


def show(root: Path, raw: list[str], every: bool, type_: str, format: str) -> None:
    """Print the table of a device's types, or of one type on every device."""
    conf = composed(root, raw)
    context, kv = conf.probe.context, conf.planner.kv[0]
    given = shapes(root, conf)
    if every:
        kind = type_ if type_ in given else next(iter(given)) if len(given) == 1 else ""
        if not kind:
            raise UserError(f"--type {type_} isn't known: use one of {', '.join(given)}")
        devices = [device_of(p) for p in profiles.every(root).values()]
        rows = sorted(
            ({"type": kind} | row(given[kind], d, context, kv) for d in devices), key=place
        )
    else:
        device = hardware_of(conf.hardware)
        rows = [{"type": kind} | row(shape, device, context, kv) for kind, shape in given.items()]
    if format == "json":
        print(json.dumps(rows, indent=1))
        return
    print(table(rows, "device" if every else "type", context, kv))


def table(rows: list[Row], first: str, context: int, kv: str) -> str:
    """Rows in 80 columns."""
    head = (
        f"{first:<24}{'GB':>7}{'tokens/s':>10}{'90 % interval':>18}{'prefill':>9}{'RAM GB':>8}  "
        "fits"
    )
    lines = [head]
    for r in rows:
        speed = r["device_tg_tps"]
        prefill = short(r["device_pp_tps"]["value"]) if "device_pp_tps" in r else "-"
        lines.append(
            f"{r[first]:<24}{short(r['weight_bytes'] / 1e9):>7}{short(speed['value']):>10}"
            f"{short(speed['low']):>10}{short(speed['high']):>8}{prefill:>9}"
            f"{r['device_ram_bytes']['value'] / GIB:>8.2f}  {fit_words(r)}"
        )
    lines.append(
        f"estimated, at context {context} with a {kv} cache; GB are 10^9 bytes, RAM in GiB; "
        "nothing was built or run"
    )
    return "\n".join(lines)


def place(r: Row) -> tuple[bool, float]:
    """What fits before what doesn't, the fastest first."""
    return not (r["fits"] or "offload" in r), -float(r["device_tg_tps"]["value"])


def short(value: float) -> str:
    """Three digits, without an exponent where numbers are large."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def fit_words(r: Row) -> str:
    """Whether a variant fits, and how."""
    if r["fits"]:
        return "yes"
    split = r.get("offload")
    return f"{split['layers']} of {split['of']} layers on the card" if split else "no"


def calibrate(root: Path, raw: list[str], csv: str, out: str) -> None:
    """Refine the composed profile by a CSV of measurements, or by this cache's measured variants,
    and write it to `out`.
    """
    from sintra.core.stage import machine
    from sintra.hardware.detect import profile as files
    from sintra.hardware.estimate import calibrate as refining
    from sintra.study.workspace import cache_root

    conf = asdict(composed(root, raw).hardware)
    rows = (
        refining.read(root / Path(csv).expanduser())
        if csv
        else measured_here(cache_root(root, raw))
    )
    if not rows:
        raise UserError(
            "nothing was measured here yet: run `doit optimize` first, or give --csv FILE"
        )
    found = refining.refined(conf, rows)
    where = csv or f"measured on {machine()}"
    path = root / Path(out).expanduser() if out else cache_root(root, raw) / files.AUTO
    files.write(path, found, [f"{conf['name']}, calibrated by {len(rows)} measurements ({where})"])
    for name in (
        n
        for n in found
        if n.startswith(("efficiency", "overhead", "runtime_")) and found[n] != conf.get(n)
    ):
        print(f"{name:<22} {conf[name]:g} -> {found[name]:g}")
    if costs := found.get("type_costs"):
        print(f"{'a byte of':<22} " + ", ".join(f"{t} {v:g}" for t, v in costs.items()))
    print(f"{len(rows)} measurements; written to {out or path}: hardware={out or 'auto'}")


def measured_here(cache: Path) -> list[Any]:
    """Decode speeds that the cache holds, measured on a machine like this one, each with its file's
    shape, and the memory that the process held beside, where that was measured too.
    """
    from sintra.core.types import Artifact
    from sintra.hardware.estimate.calibrate import Row as Measured
    from sintra.hardware.estimate.estimate import bytes_read, weights_read
    from sintra.store.store import Store

    store, found = Store(cache), []
    records = list(store.read_entries())
    layouts = {
        a.digest: a
        for r in records
        if r.get("stage") in ("quantize", "assemble", "convert", "refine", "polish")
        if isinstance(a := store.lookup(r["key"]), Artifact)
    }
    shapes = {digest: Shape.of(store.read_json(a, "layout.json")) for digest, a in layouts.items()}
    memory = {
        file: own
        for r in records
        if r.get("stage") == "memory" and (file := r["action"]["inputs"]["gguf"]) in shapes
        if (own := beside(store, r, shapes[file])) is not None
    }
    for record in (r for r in records if r.get("stage") == "speed"):
        file = record["action"]["inputs"]["gguf"]
        tps = taken(store, record, "tg_tps")
        if tps is not None and file in shapes:
            shape, context = shapes[file], int(record["action"]["params"]["generate"])
            found.append(
                Measured(
                    bytes_read(shape, context),
                    weights_read(shape),
                    shape.layers,
                    tps,
                    shape.types,
                    memory.get(file),
                )
            )
    return found


def taken(store: Any, record: Mapping[str, Any], metric: str) -> float | None:
    """A number of a probe's artifact, where it was measured on a machine like this one."""
    from sintra.core.stage import machine
    from sintra.core.types import Artifact
    from sintra.probes.measurements import MEASUREMENTS_FILE

    made = store.lookup(record["key"])
    rows = store.read_json(made, MEASUREMENTS_FILE) if isinstance(made, Artifact) else []
    return next(
        (m["value"] for m in rows if m["metric"] == metric and m.get("where") == machine()), None
    )


def beside(store: Any, record: Mapping[str, Any], shape: Shape) -> float | None:
    """Bytes that a measured process held beyond weights, KV cache and compute buffer."""
    from sintra.hardware.estimate.estimate import compute_bytes, kv_bytes

    peak, params = taken(store, record, "ram_peak_bytes"), record["action"]["params"]
    known = shape.weight_bytes + compute_bytes(shape, params["context"])
    return (
        None
        if peak is None
        else peak - known - kv_bytes(shape, params["context"], params.get("kv", "f16"))
    )
