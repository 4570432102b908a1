"""Open a study: configuration, pinned sources, store and graph, from a command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sintra import attached, config, locks, plugins, source
from sintra.canonical import canonical, sha256
from sintra.digests import Digests
from sintra.errors import UserError, nearest
from sintra.evaluation import spec
from sintra.formats import FORMATS, SPARSE, runnable
from sintra.graph import Graph
from sintra.store import Store
from sintra.terms import Terms, measured_on
from sintra.types import Constraint, Goal, Hardware, Source, Study

GIB, MIB, MB = 2**30, 2**20, 10**6
LIMITS = (
    ("max_kld", "kld_mean", "<=", 1),
    ("max_kld_p999", "kld_p999", "<=", 1),
    ("max_ppl_ratio", "ppl_ratio", "<=", 1),
    ("min_same_top", "same_top", ">=", 1),
    ("max_size_mb", "size_bytes", "<=", MB),
    ("max_ram_gb", "device_ram_bytes", "<=", GIB),
    ("min_tg_tps", "device_tg_tps", ">=", 1),
    ("min_pp_tps", "device_pp_tps", ">=", 1),
    ("min_tg_tps_sustained", "device_tg_tps_sustained", ">=", 1),
)
USUAL: dict[str, Any] = {"type_costs": {}, "runtime_bytes": 100 * MIB, "runtime_spread": 50 * MIB}
LARGER_IS_BETTER = {
    "same_top",
    "device_tg_tps",
    "device_pp_tps",
    "tg_tps",
    "pp_tps",
    "device_tg_tps_sustained",
}
OPTIMISABLE = {
    "size_bytes",
    "kld_mean",
    "kld_p999",
    "ppl_ratio",
    "device_ram_bytes",
    *LARGER_IS_BETTER,
}


@dataclass
class Workspace:
    """A study with everything around it. label: what steps are called by, where it isn't the
    model's name, since in a sweep others have that.
    """

    root: Path
    study: Study
    store: Store
    conf: dict[str, Any]
    label: str = ""

    @cached_property
    def terms(self) -> Terms:
        """How its steps are run."""
        return Terms.of(self.conf)

    @cached_property
    def digests(self) -> Digests:
        """Known digests of the user's files."""
        return Digests(self.store.root / "meta" / "digests.json")

    @cached_property
    def tasks(self) -> dict[str, Source | None]:
        """The study's tasks by name; None for one of lm-eval's own."""
        probe = self.study.probe
        return spec.sources(self.root, probe["tasks"], self.digests, probe["run_code"])

    @property
    def folder(self) -> Path:
        """Where the study's rounds lie."""
        return self.store.root / "studies" / self.study.id

    @property
    def outputs(self) -> Path:
        """Where the study's result goes."""
        return self.root / "outputs" / self.study.id

    def pinned(self) -> Source | None:
        """The model's pin, or None for a hub model that has not been resolved yet."""
        model = self.conf["model"]
        folder = model_folder(self.root, model["source"])
        if folder is not None:
            return source.pin_folder(folder, self.digests, model["trust_remote_code"])
        return source.pinned_hub(self.store, model["source"], model["revision"])

    @property
    def ready(self) -> bool:
        """Whether the model is pinned and the board, where there is one, known."""
        return self.pinned() is not None and attached.ready(self.store, self.conf["device"])

    def graph(self) -> Graph:
        """The graph; the model must be pinned, and a board known."""
        pin = self.pinned()
        assert pin is not None, "resolve comes first"
        texts = {
            role: source.pin_file(self.root / path, self.digests)
            for role, path in self.study.texts.items()
        }
        named = replace(
            self.study,
            model=self.label or self.study.model,
            device=attached.known(self.store, self.conf["device"]),
        )
        return Graph(named, pin, texts, self.root, self.tasks, self.given())

    def base(self) -> str:
        """What steps depend on beside their recipe: equal for studies that share them."""
        pin, study = self.pinned(), self.study
        texts = {
            role: source.pin_file(self.root / path, self.digests).digest
            for role, path in study.texts.items()
        }
        model = (
            [pin.kind, pin.digest]
            if pin
            else [self.conf["model"]["source"], self.conf["model"]["revision"]]
        )
        parts = [model, study.model_options, study.probe, study.seed, texts, study.compress]
        parts += [study.measured_on] if study.measured_on else []
        return sha256(canonical([*parts, study.device] if study.device else parts))

    def given(self) -> Source | None:
        """The pin of a GPTQ checkpoint that exists already, where one is named."""
        folder = self.conf["compress"]["checkpoint"]
        return (
            source.pin_folder(self.root / Path(folder).expanduser(), self.digests)
            if folder
            else None
        )


def model_folder(root: Path, text: str) -> Path | None:
    """The folder that a model's source names, or None where it names a hub repository."""
    path = root / Path(text).expanduser()
    return path if path.is_dir() or text.startswith((".", "/", "~", "models/")) else None


def open_workspace(root: Path, raw: list[str]) -> Workspace:
    """From raw overrides. Raises UserError."""
    conf = composed(root, raw)
    store = store_of(root, conf["store"])
    place = Workspace(root, study_of(conf, raw), store, conf)
    _ = place.terms  # a mistake in them is said before anything is started
    if (given := place.given()) is not None:  # by content, not by its path
        place.study = replace(
            place.study, compress=place.study.compress | {"checkpoint": given.digest}
        )
    pin = place.pinned()
    texts = [
        source.pin_file(root / path, place.digests).digest
        for _, path in sorted(place.study.texts.items())
    ]
    if len(set(texts)) < len(texts):
        raise UserError(
            "texts.calibration, texts.search, texts.report and texts.second must be different texts"
        )
    texts += [task.digest for _, task in sorted(place.tasks.items()) if task]
    local = pin.digest if pin and pin.kind == "folder" else conf["model"]["revision"]
    wanted = {k: v for k, v in asdict(place.study).items() if k not in ("id", "overrides", "texts")}
    if place.study.formats == (
        "gguf",
    ):  # a study that asks for nothing else is the same as before there was anything else
        del wanted["formats"], wanted["compress"], wanted["hardware"]["runtimes"]
    for name in ("measured_on", "extra", "device"):
        if not wanted[name]:
            del wanted[name]
    for name, usual in USUAL.items():  # likewise a profile that nothing was measured for
        if wanted["hardware"][name] == usual:
            del wanted["hardware"][name]
    mark = sha256(
        canonical(
            [
                wanted,
                conf["model"]["source"] if pin is None or pin.kind == "hub" else "",
                local,
                texts,
            ]
        )
    )
    name = f"{place.study.model}-{place.study.hardware.name}-{place.study.goal.name}-{mark[:8]}"
    place.study = Study(**{**place.study.__dict__, "id": name})
    return place


def store_of(root: Path, conf: dict[str, Any]) -> Store:
    """The cache, with the shared store behind it where one is named. Raises UserError."""
    store = Store(root / conf["path"], locks.checked(conf["locks"]))
    if conf["remote"] or conf["mode"] != "readwrite":
        from sintra.remote.shared import shared

        store.shared = shared(root, conf)
    return store


def composed(root: Path, raw: list[str]) -> dict[str, Any]:
    """The configuration of a command line, hardware=auto included."""
    cache = cache_root(root, raw)
    return config.compose(
        root, [detected(cache) if o == "hardware=auto" else o for o in raw], cache=cache
    )


def detected(cache: Path) -> str:
    """hardware=auto as hardware=PATH: what was found on this machine the first time is kept, `doit
    detect` looks again.
    """
    from sintra.hardware.profile import AUTO

    path = cache / AUTO
    if not path.is_file():
        from sintra.hardware import auto

        auto.detect(path)
    return f"hardware={path.resolve()}"


def cache_root(root: Path, raw: list[str]) -> Path:
    """The cache folder before anything is composed: the composed configurations lie in it."""
    given = [o.split("=", 1)[1] for o in raw if o.startswith("store.path=")]
    return root / (given[-1] if given else "cache")


def study_of(conf: dict[str, Any], raw: list[str]) -> Study:
    """The typed study of a composed configuration."""
    model = conf["model"]
    if not model["source"]:
        raise UserError("model.source is empty: give model=NAME, model=owner/name or model=FOLDER")
    if not 0 <= conf["probe"]["calibration_random"] <= 0.9:
        raise UserError(
            
                f"probe.calibration_random={conf['probe']['calibration_random']:g} is no share "
                "from 0 "
                "to 0.9"
            
        )
    return Study(
        id="",
        model=model["name"] or config.slug(model["source"]),
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
        device=attached.wanted(conf["device"]),
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
                
                    f"formats has {name!r}: llama.cpp and transformers store and multiply zeros "
                    "like "
                    "any number: no gain"
                
            )
        if name not in FORMATS:
            raise UserError(f"formats has {name!r}: {nearest(name, FORMATS)}")
    if not runnable(asked, tuple(conf["hardware"]["runtimes"])):
        runs = ", ".join(conf["hardware"]["runtimes"])
        raise UserError(
            
                f"{conf['hardware']['name']} runs none of formats={list(asked)}: it has {runs} "
                "(hardware.runtimes)"
            
        )
    if conf["model"]["trust_remote_code"] and asked != ("gguf",):
        raise UserError(
            
                "model.trust_remote_code=true goes with formats=[gguf] only: checkpoints with "
                "code of "
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
            
                f"compress.group_size={compress['group_size']} isn't known to the kernels: use "
                "32, 64 "
                "or 128"
            
        )
    if compress["python"] not in ("auto", "here"):
        raise UserError(
            
                f"compress.python={compress['python']!r}: use auto (an environment in the cache) "
                "or "
                "here"
            
        )
    return asked


def extra_of(names: list[str]) -> tuple[str, ...]:
    """The stages and probes of plugins that every finalist goes through, checked."""
    for name in dict.fromkeys(names):
        known = {
            e.name for group in ("stages", "probes") for e in plugins.all_of(group)
        } - plugins.built_in()
        if name not in known:
            raise UserError(
                
                    f"extra has {name!r}, which no plugin offers (doit plugins): "
                    f"{nearest(name, known) if known else 'none'}"
                
            )
        try:
            plugins.step(name)
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
        Constraint(metric, op, conf[name] * unit, f"goal.{name}")  # type: ignore[arg-type]
        for name, metric, op, unit in LIMITS
        if conf[name] is not None
    ]
    found += task_limits(conf["min_task_retention"], tasks or [])
    if conf["fit_memory"]:
        found.append(
            Constraint(
                "device_ram_bytes",
                "<=",
                hardware["usable_gb"] * GIB,
                f"hardware={hardware['name']}",
            )
        )
    if conf["optimise"] not in OPTIMISABLE:
        raise UserError(
            
                f"goal.optimise={conf['optimise']} isn't a metric: "
                f"{nearest(conf['optimise'], OPTIMISABLE)}"
            
        )
    sense = -1 if conf["optimise"] in LARGER_IS_BETTER else 1
    return Goal(
        conf["name"],
        tuple(found),
        conf["optimise"],
        sense,
        conf["accept_simulated"],
        conf["enforce_memory"],
    )


def task_limits(least: float | None, tasks: list[str]) -> list[Constraint]:
    """The share of the baseline's score that every task must keep, as limits."""
    if least is None:
        return []
    if not tasks:
        raise UserError(
            
                "goal.min_task_retention needs tasks: add probe.tasks=[fable], a YAML file of "
                "yours "
                "or lm-eval's names"
            
        )
    if not 0 < least <= 1:
        raise UserError(
            
                f"goal.min_task_retention={least:g} is no share of the baseline's score: 0.98 "
                "keeps "
                "98 % of it"
            
        )
    option = "goal.min_task_retention"
    return [Constraint(f"task:{spec.name_of(t)}:retention", ">=", least, option) for t in tasks]
