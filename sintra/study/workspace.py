"""Open a study: configuration, pinned sources, store and graph, from a command line."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from sintra.build.graph import Graph
from sintra.config import compose
from sintra.config import tasks as task_files
from sintra.config.policy import RunPolicy
from sintra.config.study import MIB, study_of
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError
from sintra.core.types import Source, Study
from sintra.hardware.boards import identity
from sintra.store import locks
from sintra.store.store import Store
from sintra.study import pinning
from sintra.study.pinning import Digests

USUAL: dict[str, Any] = {"type_costs": {}, "runtime_bytes": 100 * MIB, "runtime_spread": 50 * MIB}


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
    def policy(self) -> RunPolicy:
        """How its steps are run."""
        return RunPolicy.of(self.conf)

    @cached_property
    def digests(self) -> Digests:
        """Known digests of the user's files."""
        return Digests(self.store.root / "meta" / "digests.json")

    @cached_property
    def tasks(self) -> dict[str, Source | None]:
        """The study's tasks by name; None for one of lm-eval's own."""
        probe = self.study.probe
        return task_files.sources(self.root, probe["tasks"], self.digests, probe["run_code"])

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
            return pinning.pin_folder(folder, self.digests, model["trust_remote_code"])
        return pinning.pinned_hub(self.store, model["source"], model["revision"])

    @property
    def ready(self) -> bool:
        """Whether the model is pinned and the board, where there is one, known."""
        return self.pinned() is not None and identity.ready(self.store, self.conf["device"])

    def graph(self) -> Graph:
        """The graph; the model must be pinned, and a board known."""
        pin = self.pinned()
        assert pin is not None, "resolve comes first"
        texts = {
            role: pinning.pin_file(self.root / path, self.digests)
            for role, path in self.study.texts.items()
        }
        named = replace(
            self.study,
            model=self.label or self.study.model,
            device=identity.known(self.store, self.conf["device"]),
        )
        return Graph(named, pin, texts, self.root, self.tasks, self.given())

    def base(self) -> str:
        """What steps depend on beside their recipe: equal for studies that share them."""
        pin, study = self.pinned(), self.study
        texts = {
            role: pinning.pin_file(self.root / path, self.digests).digest
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
            pinning.pin_folder(self.root / Path(folder).expanduser(), self.digests)
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
    workspace = Workspace(root, study_of(conf, raw), store, conf)
    _ = workspace.policy  # a mistake in it is said before anything is started
    if (given := workspace.given()) is not None:  # by content, not by its path
        workspace.study = replace(
            workspace.study, compress=workspace.study.compress | {"checkpoint": given.digest}
        )
    pin = workspace.pinned()
    texts = [
        pinning.pin_file(root / path, workspace.digests).digest
        for _, path in sorted(workspace.study.texts.items())
    ]
    if len(set(texts)) < len(texts):
        raise UserError(
            "texts.calibration, texts.search, texts.report and texts.second must be different texts"
        )
    texts += [task.digest for _, task in sorted(workspace.tasks.items()) if task]
    local = pin.digest if pin and pin.kind == "folder" else conf["model"]["revision"]
    wanted = {
        k: v for k, v in asdict(workspace.study).items() if k not in ("id", "overrides", "texts")
    }
    if workspace.study.formats == (
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
    name = f"{workspace.study.model}-{workspace.study.hardware.name}-{workspace.study.goal.name}-{mark[:8]}"
    workspace.study = Study(**{**workspace.study.__dict__, "id": name})
    return workspace


def store_of(root: Path, conf: dict[str, Any]) -> Store:
    """The cache, with the shared store behind it where one is named. Raises UserError."""
    store = Store(root / conf["path"], locks.checked(conf["locks"]))
    if conf["remote"] or conf["mode"] != "readwrite":
        from sintra.store.remote.shared import shared

        store.shared = shared(root, conf)
    return store


def composed(root: Path, raw: list[str]) -> dict[str, Any]:
    """The configuration of a command line, hardware=auto included."""
    cache = cache_root(root, raw)
    return compose.compose(
        root, [detected(cache) if o == "hardware=auto" else o for o in raw], cache=cache
    )


def detected(cache: Path) -> str:
    """hardware=auto as hardware=PATH: what was found on this machine the first time is kept, `doit
    detect` looks again.
    """
    from sintra.hardware.detect.profile import AUTO

    path = cache / AUTO
    if not path.is_file():
        from sintra.hardware.detect import auto

        auto.detect(path)
    return f"hardware={path.resolve()}"


def cache_root(root: Path, raw: list[str]) -> Path:
    """The cache folder before anything is composed: the composed configurations lie in it."""
    given = [o.split("=", 1)[1] for o in raw if o.startswith("store.path=")]
    return root / (given[-1] if given else "cache")
