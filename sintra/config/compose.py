"""Compose the options of a command line: Hydra composes, dataclasses check, the result is cached.

Hydra is only imported when a command line is new: composed options are cached by the state of the
conf tree, the overrides and our version.
"""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.config.options import Config, HardwareConf, from_json
from sintra.config.texts import refuse_empty
from sintra.core import plugins
from sintra.core.canonical import canonical, sealed, sha256, unsealed
from sintra.core.errors import UserError, nearest
from sintra.store.files import write_if_possible

TIMEOUT = "limits.timeout"  # stage -> seconds
GROUPS = ("hardware", "model", "goal", "planner", "probe", "texts", "store", "executor", "device")


def overrides_of(argv: list[str]) -> list[str]:
    """Return the Hydra overrides of a command line, raw and in order."""
    return [a for a in argv if not a.startswith("-") and "=" in a]


def conf_dirs(root: Path) -> list[Path]:
    """Return where groups are looked up: the project's conf, then SINTRA_CONF_PATH."""
    extra = [Path(p) for p in os.environ.get("SINTRA_CONF_PATH", "").split(os.pathsep) if p]
    for path in extra:
        if not path.is_dir():
            raise UserError(f"SINTRA_CONF_PATH names {str(path)!r}, which is no folder")
    return [root / "conf", *extra]


def names(root: Path, group: str) -> set[str]:
    """Return the names that a group offers."""
    return {p.stem for folder in conf_dirs(root) for p in (folder / group).glob("*.yaml")}


def keys(node: Any = Config, prefix: str = "") -> set[str]:
    """Return every dotted key that can be set; the time limits are those of the built-in stages."""
    names = set()
    for option in fields(node):
        default = option.default_factory() if callable(option.default_factory) else None
        if is_dataclass(default):
            names |= keys(type(default), f"{prefix}{option.name}.")
        elif prefix + option.name == TIMEOUT:
            names |= {f"{TIMEOUT}.{stage}" for stage in plugins.own_names(*plugins.STEP_GROUPS)}
        else:
            names.add(prefix + option.name)
    return names


def is_timeout(key: str) -> bool:
    """Return whether a key is the time limit of a stage or probe, a plugin's included."""
    group, _, stage = key.rpartition(".")
    return group == TIMEOUT and plugins.has_step(stage)


def checked(root: Path, raw: list[str]) -> list[str]:
    """Return the overrides as Hydra takes them, after a check of every key and group name.

    `model=` may be a name in conf/model, a hub id (owner/name, with @revision), or a folder. Raises
    UserError.
    """
    seen: set[str] = set()
    result = []
    for override in raw:
        key, _, value = override.partition("=")
        if "${oc.env" in value:
            raise UserError(
                f"{key}: the environment isn't read by options, since they are written down; keys "
                "have names of their own"
            )
        plain = key.lstrip("+~")
        if plain != key:
            raise UserError(
                f"{override!r}: `+` and `~` are not taken here; every key exists, so write "
                f"{plain}={value}"
            )
        if key in seen:
            raise UserError(f"{key!r} is given twice")
        seen.add(key)
        if key == "model":
            result += _model(root, value)
        elif key == "texts":
            result += _texts(root, value, raw)
        elif key == "hardware" and (path := profile_path(root, override)):
            result.append(f"hardware={_own_name(path)}")
        elif key in GROUPS:
            if value not in names(root, key):
                raise UserError(f"no {key} is called {value!r}: {nearest(value, names(root, key))}")
            result.append(override)
        elif is_timeout(key):
            result.append(f"+{override}")  # an entry of a mapping, to Hydra
        elif key in keys():
            refuse_empty(key, value)
            result.append(override)
        else:
            raise UserError(f"there is no option {key!r}: {nearest(key, keys() | set(GROUPS))}")
    return result


def profile_path(root: Path, override: str) -> Path | None:
    """Return the file of hardware=PATH, a YAML such as `doit detect` writes. Raises UserError.

    It is None for any other override.
    """
    key, _, value = override.partition("=")
    if key != "hardware" or not value.endswith((".yaml", ".yml")):
        return None
    path = root / user_path(value)
    if not is_file(path):
        raise UserError(
            f"hardware={value}: there is no such file; `doit detect --out {value}` writes one"
        )
    return path


def user_path(text: str) -> Path:
    """Return what a user wrote as a path; a home that nobody has stays as it is."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def is_file(path: Path) -> bool:
    """Return whether there is such a file; no name is too long or too odd to ask for."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Return whether there is such a folder; no name is too long or too odd to ask for."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def _own_name(path: Path) -> str:
    return f"file_{sha256(str(path.resolve()))[:8]}"


def _write_profile(folder: Path, path: Path) -> None:
    """Put a profile where Hydra looks for groups, under a name that no profile of ours has. Raises
    UserError.
    """
    import yaml

    try:
        found = yaml.safe_load(path.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(f"{path.name} can't be read: {str(error).splitlines()[0]}") from None
    if not isinstance(found, dict):
        raise UserError(
            f"{path.name} is no profile: wanted is a mapping such as conf/hardware/laptop.yaml"
        )
    own = {f.name for f in fields(HardwareConf)}
    for key in found:
        if key not in own:
            raise UserError(f"{path.name}: a profile has no {str(key)!r}: {nearest(str(key), own)}")
    (folder / "hardware").mkdir(exist_ok=True)
    text = yaml.safe_dump({"name": slug(path.stem), "title": path.stem} | found)
    (folder / "hardware" / f"{_own_name(path)}.yaml").write_text(text)


def _model(root: Path, value: str) -> list[str]:
    if value in names(root, "model"):
        return [f"model={value}"]
    folder = user_path(value)
    if folder.name == "config.json" and is_file(folder):
        folder = folder.parent
    if folder.suffix == ".gguf" and is_file(folder):
        return ["model=custom", f"model.name={slug(folder.stem)}", f"model.source='{folder}'"]
    if is_folder(folder):
        return [
            "model=custom",
            f"model.name={slug(folder.resolve().name)}",
            f"model.source='{folder}'",
            *(["model.texts=stories"] if _is_bundled(root, folder) else []),
        ]
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", value)
    if not hub or value.startswith((".", "/", "~")):
        known = nearest(value, names(root, "model"))
        raise UserError(
            f"no model is called {value!r}, and there is no such folder or file: {known}; a hub "
            "model is owner/name"
        )
    revision = [f"model.revision={hub[2]}"] if hub[2] else []
    return ["model=custom", f"model.name={slug(hub[1])}", f"model.source={hub[1]}", *revision]


def _is_bundled(root: Path, folder: Path) -> bool:
    """Return whether a folder is that of a bundled model."""
    path = (root / folder).resolve()
    return path.parent == (root / "models").resolve() and path.name in names(root, "model")


def _texts(root: Path, value: str, raw: list[str]) -> list[str]:
    """Return `texts=` as Hydra takes it: a name in conf/texts, or a folder of text files."""
    if value in names(root, "texts"):
        return [f"texts={value}"]
    folder = root / user_path(value)
    if not is_folder(folder):
        known = nearest(value, names(root, "texts"))
        raise UserError(f"no texts are called {value!r}, and there is no such folder: {known}")
    single = {override.partition("=")[0] for override in raw}
    found = ["texts=custom"]
    for role in ("calibration", "search", "report", "second"):
        path = folder / f"{role}.txt"
        if f"texts.{role}" in single:
            continue
        if is_file(path):
            found.append(f"texts.{role}='{path}'")
        elif role != "second":
            raise UserError(
                f"texts={value}: the folder has no {role}.txt (calibration.txt, search.txt and "
                "report.txt, of different content; second.txt of another domain may be there)"
            )
    return found


def slug(text: str) -> str:
    """Letters, digits, dots and dashes only."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "model"


def compose(root: Path, raw: list[str], cache: Path | None = None) -> Config:
    """Return the composed and checked options. Raises UserError in one line."""
    for override in raw:
        if not override.isprintable():
            raise UserError(f"{override!r} has characters in it that can't be written down")
    profiles = [path for override in raw if (path := profile_path(root, override))]
    key = sha256(canonical(state_of(root, raw, profiles)))
    path = cache / "meta" / "compose" / f"{key}.json" if cache else None
    values = read_composed(path) if path else None
    if values is None:
        with tempfile.TemporaryDirectory(prefix="sintra-") as folder:
            for profile in profiles:
                _write_profile(Path(folder), profile)
            values = _compose(root, checked(root, raw), [folder] if profiles else [])
        if path:
            write_if_possible(path, sealed(canonical(values)))
    return from_json(Config, values)


def state_of(root: Path, raw: list[str], profiles: list[Path]) -> list[Any]:
    """Return all that composed options depend on, in JSON's types."""
    files = [
        (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        for folder in conf_dirs(root)
        for path in sorted(folder.rglob("*.yaml"))
    ]
    texts = [[str(path), sha256(path.read_text(errors="replace"))] for path in profiles]
    schema = [__version__, *sorted(keys())]  # a new option is missing from older caches
    return [schema, files, texts, raw, [str(path) for path in conf_dirs(root)]]


def read_composed(path: Path) -> dict[str, Any] | None:
    """Return composed options from the cache; None where there are none."""
    try:
        return unsealed(path.read_bytes())
    except OSError:
        return None


def _compose(root: Path, overrides: list[str], beside: list[str]) -> dict[str, Any]:
    from hydra import compose as hydra_compose  # not on the no-op path
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=writable_schema())
    main, *more = (*(str(d.resolve()) for d in conf_dirs(root)), *beside)
    paths = [f"hydra.searchpath=[{','.join('file://' + p for p in more)}]"] if more else []
    try:
        with initialize_config_dir(config_dir=main, version_base="1.3"):
            config = hydra_compose("config", overrides=[*overrides, *paths])
            result = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException, OverflowError) as error:
        reason = error.__cause__ or error  # OverflowError: a number that no float can hold
        first = next(x for x in str(reason).splitlines() if x.strip())
        raise UserError(f"{first} ({' '.join(overrides)})") from None
    assert isinstance(result, dict)
    return {str(key): value for key, value in result.items()}


def writable_schema() -> Any:
    """Return the schema of the options as a node that Hydra can compose over."""
    from omegaconf import OmegaConf  # not on the no-op path

    schema = OmegaConf.structured(Config)
    _make_writable(schema)
    return schema


def _make_writable(node: Any) -> None:
    """Let Hydra set options: OmegaConf reads a frozen dataclass as a read-only schema."""
    from omegaconf import DictConfig, OmegaConf

    OmegaConf.set_readonly(node, None)
    if isinstance(node, DictConfig):
        for key in node:
            child = node._get_node(key)
            if isinstance(child, DictConfig) and not child._is_none():
                _make_writable(child)
