"""Open a study: options, pinned sources, store and graph, from a command line."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from sintra.build.graph import Graph
from sintra.config import compose
from sintra.config.options import Config, PlannerConf, StoreConf
from sintra.config.policy import RunPolicy
from sintra.config.quoting import unquoted, user_path
from sintra.config.study import Study, check_depth, served_context, study_id, study_of
from sintra.config.tasks.files import pinned_tasks
from sintra.config.texts import OWN, WIKITEXT
from sintra.core.artifact import Source
from sintra.core.canonical import canonical, sha256
from sintra.core.errors import UserError
from sintra.hardware.boards import identity
from sintra.planning.bounds import TINY, weights_by_columns
from sintra.store import locks
from sintra.store.store import Store
from sintra.study import pinning
from sintra.study.own_context import own_context
from sintra.study.pinning import Digests
from sintra.study.text_check import length_fault, refuse_text, text_fault

if TYPE_CHECKING:
    from sintra.store.remote.address import Address
    from sintra.store.remote.shared import SharedStore


@dataclass(frozen=True)
class Workspace:
    """A study with everything around it."""

    root: Path  # the project's folder
    study: Study
    store: Store
    config: Config  # every option
    policy: RunPolicy  # how steps are run
    shared: SharedStore | None = None  # what other machines have made, where there is one
    label: str = ""  # what steps are called by, where it isn't the model's name (sweeps)

    @cached_property
    def digests(self) -> Digests:
        """Return the remembered digests of the user's files."""
        return digests_of(self.store)

    @cached_property
    def tasks(self) -> dict[str, Source | None]:
        """Return the study's tasks by name; None for one of lm-eval's own."""
        return tasks_of(self.root, self.study, self.digests)

    @property
    def folder(self) -> Path:
        """Return the folder of the study's rounds."""
        return self.store.root / "studies" / self.study.id

    @property
    def outputs(self) -> Path:
        """Return the folder of the study's result."""
        return self.root / "outputs" / self.study.id

    def pinned(self) -> Source | None:
        """Return the model's pin, or None for a hub model that has not been resolved yet."""
        return pinned_model(self.root, self.config, self.store, self.digests)

    @property
    def ready(self) -> bool:
        """Return whether the model is pinned and the board, where there is one, is known."""
        return self.pinned() is not None and identity.is_resolved(self.store, self.config.device)

    def knowing_context(self) -> Workspace:
        """Return the workspace once a hub model is pinned: its own context is known then.

        Raises UserError where more is asked for.
        """
        pin = self.pinned()
        return replace(self, study=served(self.config, self.study, pin, self.store, self.digests))

    def graph(self) -> Graph:
        """Return the study's graph; the model must be pinned, and a board known."""
        pin = self.pinned()
        assert pin is not None, "resolve comes first"
        board = identity.read_board(self.store, self.config.device)
        balance, planner = resolved_balance(self.study, pin), resolved_planner(self.study, pin)
        label = self.label or self.study.model
        named = replace(self.study, model=label, board=board, balance=balance, planner=planner)
        texts = pinned_texts(self.root, self.study, self.digests)
        checkpoint = pinned_checkpoint(self.root, self.config, self.digests)
        return Graph(named, pin, texts, self.root, self.tasks, checkpoint)

    def base(self) -> str:
        """Return the digest of what steps depend on beside their recipe.

        It is equal for studies that share them.
        """
        pin, model = self.pinned(), self.config.model
        source = [pin.kind, pin.digest] if pin else [model.source, model.revision]
        texts = pinned_texts(self.root, self.study, self.digests)
        parts = [source, *self.study.base, {role: text.digest for role, text in texts.items()}]
        return sha256(canonical(parts))


def resolved_balance(study: Study, pin: Source) -> str:
    """Return whether a model's columns are balanced, always or never, where auto may be asked.

    Tiny models' columns are alike. Balanced weights are rounded to 16 bits anew, for which bfloat16
    is too coarse. A GGUF is taken as it is: what would convert it again needs the tokenizer's own
    files. Raises UserError where it is to be balanced all the same.
    """
    if pin.kind == "gguf" and study.balance == "always":
        raise UserError(
            f"model.balance=always needs a folder or a model of the hub: {Path(pin.locator).name} "
            "is a GGUF, without the tokenizer's files that converting it again takes"
        )
    if study.balance != "auto":
        return study.balance
    if study.convert == "bf16" or pin.kind == "gguf":
        return "never"
    return "never" if is_tiny(pin) else "always"


def resolved_planner(study: Study, pin: Source) -> PlannerConf:
    """Return the planner's options, with how sensitivities are measured where auto may be asked.

    A tiny model's probes take seconds, and measure what they are about.
    """
    if study.planner.sensitivity != "auto":
        return study.planner
    return replace(study.planner, sensitivity="probes" if is_tiny(pin) else "gradient")


@cache
def is_tiny(pin: Source) -> bool:
    """Return whether a model has TINY weights at most.

    Of a hub model nothing is known yet: no tiny one, as a rule.
    """
    return 0 < sum(weights_by_columns(pin).values()) <= TINY


def digests_of(store: Store) -> Digests:
    """Return the remembered digests of the user's files in a cache."""
    return Digests(store.root / "meta" / "digests.json")


def tasks_of(root: Path, study: Study, digests: Digests) -> dict[str, Source | None]:
    """Return a study's tasks by name; None for one of lm-eval's own. Raises UserError."""
    return pinned_tasks(root, study.probe.tasks, digests, study.probe.run_code)


def pinned_model(root: Path, config: Config, store: Store, digests: Digests) -> Source | None:
    """Return the model's pin; None for a hub model that isn't resolved yet. Raises UserError."""
    model = config.model
    if model.is_gguf:
        path = root / user_path(model.source)
        return pinning.pin_gguf(path, digests, model.requantize)
    folder = model_folder(root, model.source)
    if folder is not None:
        return pinning.pin_folder(folder, digests, model.trust_remote_code, model.convert)
    return pinning.pinned_hub(store, model.source, model.revision)


def pinned_texts(root: Path, study: Study, digests: Digests) -> dict[str, Source]:
    """Return the pins of the study's texts, by role. Raises UserError."""
    return {role: pinned_text(root, study, digests, role) for role in study.texts.paths}


def pinned_text(root: Path, study: Study, digests: Digests, role: str) -> Source:
    """Return the pin of one text of a study. Raises UserError."""
    path = study.texts.paths[role]
    if path == OWN:
        return pinning.pin_own_text(study.texts.own_params(role, study.probe, study.seed))
    if path.startswith(WIKITEXT):
        return pinning.pin_wikitext(path.removeprefix(WIKITEXT))
    return pinning.pin_file(root / user_path(path), digests)


def pinned_checkpoint(root: Path, config: Config, digests: Digests) -> Source | None:
    """Return the pin of a GPTQ checkpoint that exists already, where one is named."""
    folder = config.compress.checkpoint
    return pinning.pin_checkpoint(root / user_path(folder), digests) if folder else None


def model_folder(root: Path, text: str) -> Path | None:
    """Return the folder that a model's source names, or None for a hub repository."""
    path = root / user_path(text)
    return path if path.is_dir() or text.startswith((".", "/", "~", "models/")) else None


def open_workspace(
    root: Path, raw: list[str], shared_stores: dict[Address, SharedStore] | None = None
) -> Workspace:
    """Return the workspace of raw overrides. Raises UserError for any mistake in them.

    shared_stores: those that the run has opened before; a new one is added.
    """
    config = composed(root, raw)
    store = Store(root / user_path(config.store.path), locks.check_lock_kind(config.store.locks))
    shared = shared_store_of(root, config.store, {} if shared_stores is None else shared_stores)
    study = study_of(config, raw)
    policy = RunPolicy.of(config)
    digests = digests_of(store)
    if (checkpoint := pinned_checkpoint(root, config, digests)) is not None:
        compress = replace(study.compress, checkpoint=checkpoint.digest)  # not its path
        study = replace(study, compress=compress)
    study = identified(root, config, study, store, digests)
    return Workspace(root, study, store, config, policy, shared)


def identified(root: Path, config: Config, study: Study, store: Store, digests: Digests) -> Study:
    """Return the study with its id and the context that its model is served with.

    Raises UserError for texts that can't do, or are the same, and for too large a context.
    """
    pin, model = pinned_model(root, config, store, digests), config.model
    in_use = served(config, study, pin, store, digests)
    check_texts(root, config, study, pin, digests)
    texts = [text.digest for _, text in sorted(pinned_texts(root, study, digests).items())]
    if len(set(texts)) < len(texts):
        raise UserError(
            "texts.calibration, texts.search, texts.report and texts.second must be different texts"
        )
    tasks = sorted(tasks_of(root, study, digests).items())
    texts += [task.digest for _, task in tasks if task]
    if pin is not None and pin.kind in ("folder", "gguf"):
        return replace(in_use, id=study_id(in_use, "", pin.digest, texts))
    # by what was asked for: a hub model's id is the same before its own context is known
    return replace(in_use, id=study_id(study, model.source, model.revision, texts))


def served(
    config: Config, study: Study, pin: Source | None, store: Store, digests: Digests
) -> Study:
    """Return the study with the context that its model is served with.

    Raises UserError for more than the model has, and for a depth that leaves no room in it.
    """
    own = own_context(pin, config.model, store, digests)
    context = served_context(config.goal.context, own, study.model)
    study = replace(study, context=context)
    check_depth(study)
    return study


def check_texts(
    root: Path, config: Config, study: Study, pin: Source | None, digests: Digests
) -> None:
    """Decode and count the user's texts. Raises UserError for one that can't do.

    What was found of a file is remembered, by its stat, the context and the model.
    """
    folder = model_folder(root, config.model.source) if pin and pin.kind == "folder" else None
    context, mark = study.probe.context, pin.digest[:16] if pin and folder else ""
    for role, name in study.texts.paths.items():
        if name == OWN or name.startswith(WIKITEXT):
            continue
        path = root / Path(name).expanduser()
        if not path.is_file():
            continue  # pinning says so
        refuse_text(role, path, digests.remember(path, "text", partial(text_fault, path)))
        count = partial(length_fault, path, context, folder)
        refuse_text(role, path, digests.remember(path, f"{context}@{mark}", count))


def shared_store_of(
    root: Path, options: StoreConf, opened: dict[Address, SharedStore]
) -> SharedStore | None:
    """Return the shared store that the options name; None where they name none.

    opened: the shared stores of this run, so that all its studies use the same. Raises UserError.
    """
    if not options.remote and options.mode == "readwrite":
        return None
    from sintra.store.remote.shared import open_shared_store  # needs the extra `remote`

    shared = open_shared_store(root, options.remote, options.mode)
    return None if shared is None else opened.setdefault(shared.address, shared)


def composed(root: Path, raw: list[str]) -> Config:
    """Return the options of a command line, hardware=auto included. Raises UserError."""
    cache = cache_root(root, raw)
    overrides = [detected(cache) if o == "hardware=auto" else o for o in raw]
    return compose.compose(root, overrides, cache=cache)


def detected(cache: Path) -> str:
    """Return hardware=auto as hardware=PATH.

    What was found on this machine the first time is kept; `doit detect` looks again.
    """
    from sintra.hardware.detect.profile import AUTO_PROFILE  # not on the no-op path

    path = cache / AUTO_PROFILE
    if not path.is_file():
        from sintra.hardware.detect import auto

        auto.detect_machine(path)
    return f"hardware={path.resolve()}"


def cache_root(root: Path, raw: list[str]) -> Path:
    """Return the cache folder before anything is composed: composed options lie in it."""
    paths = [o.split("=", 1)[1] for o in raw if o.startswith("store.path=")]
    return root / user_path(unquoted(paths[-1]) if paths else "cache")
