"""From the command line to a plain, checked dictionary: Hydra composes, dataclasses check, and the result is kept.

Hydra is only imported when a command line is new: the composed configuration is cached by the conf tree's state, the
overrides and our version. Sizes: `_gb` of a device is GiB (2^30 bytes), as memory is sold; `_mb` of a file is 10^6 bytes.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.errors import UserError, nearest
from sintra.store import write_atomic
from sintra.types import canonical, sha256

GROUPS = ("hardware", "model", "goal", "planner", "probe", "store")


@dataclass
class HardwareConf:
    """A device. Speeds in GB/s (10^9 bytes) and TFLOP/s; efficiency is the share of the bandwidth that decoding gets."""

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


@dataclass
class ModelConf:
    """A model: a folder or a hub id, with an optional revision; `convert` is the 16-bit type of its GGUF."""

    name: str = ""
    source: str = ""
    revision: str = "main"
    convert: str = "f16"


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
    max_size_mb: float | None = None
    max_ram_gb: float | None = None
    min_tg_tps: float | None = None
    min_pp_tps: float | None = None


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

    polish_tokens, polish_epochs: of the calibration text, how much the finished file is tuned on and how often.
    """

    name: str = ""
    context: int = 512
    calibration_tokens: int = 40960
    calibration_random: float = 0.2
    polish_tokens: int = 40960
    polish_epochs: float = 2.0
    search_tokens: int = 5120
    report_tokens: int = 20480
    second_tokens: int = 10240
    top_k: int = 512
    speed_prompt: int = 256
    speed_generate: int = 64
    speed_repeat: int = 5


@dataclass
class StoreConf:
    """Where the cache is."""

    name: str = "local"
    path: str = "cache"


@dataclass
class TextsConf:
    """Disjoint texts; `second`, of another domain than calibration, is measured beside `report` (null: not at all)."""

    calibration: str = "models/texts/calibration.txt"
    search: str = "models/texts/search.txt"
    report: str = "models/texts/report.txt"
    second: str | None = "models/texts/far.txt"


@dataclass
class Config:
    """The whole of it."""

    hardware: HardwareConf = field(default_factory=HardwareConf)
    model: ModelConf = field(default_factory=ModelConf)
    goal: GoalConf = field(default_factory=GoalConf)
    planner: PlannerConf = field(default_factory=PlannerConf)
    probe: ProbeConf = field(default_factory=ProbeConf)
    store: StoreConf = field(default_factory=StoreConf)
    texts: TextsConf = field(default_factory=TextsConf)
    seed: int = 0
    max_rounds: int = 12
    timeout_s: float | None = None
    refresh: bool = False


def overrides_of(argv: list[str]) -> list[str]:
    """The Hydra overrides of a command line, raw and in order."""
    return [a for a in argv if not a.startswith("-") and "=" in a]


def conf_dirs(root: Path) -> list[Path]:
    """Where groups are looked up: the project's conf, then the user's own through SINTRA_CONF_PATH."""
    extra = [Path(p) for p in os.environ.get("SINTRA_CONF_PATH", "").split(os.pathsep) if p]
    for path in extra:
        if not path.is_dir():
            raise UserError(f"SINTRA_CONF_PATH names {str(path)!r}, which is no folder")
    return [root / "conf", *extra]


def names(root: Path, group: str) -> set[str]:
    """The names that a group offers."""
    return {p.stem for folder in conf_dirs(root) for p in (folder / group).glob("*.yaml")}


def keys(node: Any = Config, prefix: str = "") -> set[str]:
    """Every dotted key that can be set."""
    found = set()
    for item in fields(node):
        default = item.default_factory() if callable(item.default_factory) else None
        if is_dataclass(default):
            found |= keys(type(default), f"{prefix}{item.name}.")
        else:
            found.add(prefix + item.name)
    return found


def checked(root: Path, raw: list[str]) -> list[str]:
    """The overrides as Hydra takes them, after a check of every key and group name.

    `model=` may be a name in conf/model, a hub id (owner/name, with @revision), or a folder. Raises UserError.
    """
    seen: set[str] = set()
    result = []
    for override in raw:
        key, _, value = override.partition("=")
        plain = key.lstrip("+~")
        if plain != key:
            raise UserError(f"{override!r}: `+` and `~` are not taken here; every key exists, so write {plain}={value}")
        if key in seen:
            raise UserError(f"{key!r} is given twice")
        seen.add(key)
        if key == "model":
            result += _model(root, value)
        elif key in GROUPS:
            if value not in names(root, key):
                raise UserError(f"no {key} is called {value!r}: {nearest(value, names(root, key))}")
            result.append(override)
        elif key in keys():
            result.append(override)
        else:
            raise UserError(f"there is no option {key!r}: {nearest(key, keys() | set(GROUPS))}")
    return result


def _model(root: Path, value: str) -> list[str]:
    if value in names(root, "model"):
        return [f"model={value}"]
    folder = Path(value).expanduser()
    if folder.is_dir():
        return ["model=custom", f"model.name={slug(folder.resolve().name)}", f"model.source='{folder}'"]
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", value)
    if not hub or value.startswith((".", "/", "~")):
        known = nearest(value, names(root, "model"))
        raise UserError(f"no model is called {value!r}, and there is no such folder: {known}; a hub model is owner/name")
    revision = [f"model.revision={hub[2]}"] if hub[2] else []
    return ["model=custom", f"model.name={slug(hub[1])}", f"model.source={hub[1]}", *revision]


def slug(text: str) -> str:
    """Letters, digits, dots and dashes only."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "model"


def compose(root: Path, raw: list[str], cache: Path | None = None) -> dict[str, Any]:
    """The composed and checked configuration as a plain dictionary. Raises UserError in one line."""
    state = [(str(p), p.stat().st_mtime_ns, p.stat().st_size) for d in conf_dirs(root) for p in sorted(d.rglob("*.yaml"))]
    schema = [__version__, *sorted(keys())]  # so that a new option isn't missing from what was composed before it
    key = sha256(canonical([schema, state, raw, [str(p) for p in conf_dirs(root)]]))
    kept = cache / "meta" / "compose" / f"{key}.json" if cache else None
    if kept:
        try:
            known: dict[str, Any] = json.loads(kept.read_bytes())
            return known
        except (OSError, ValueError):
            pass
    result = _compose(root, checked(root, raw))
    if kept:
        write_atomic(kept, canonical(result))
    return result


def _compose(root: Path, overrides: list[str]) -> dict[str, Any]:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=Config)
    main, *more = (str(d.resolve()) for d in conf_dirs(root))
    paths = [f"hydra.searchpath=[{','.join('file://' + p for p in more)}]"] if more else []
    try:
        with initialize_config_dir(config_dir=main, version_base="1.3"):
            config = hydra_compose("config", overrides=[*overrides, *paths])
            result = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        reason = error.__cause__ or error
        first = next(x for x in str(reason).splitlines() if x.strip())
        raise UserError(f"{first} ({' '.join(overrides)})") from None
    assert isinstance(result, dict)
    return {str(k): v for k, v in result.items()}
