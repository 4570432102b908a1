"""Read a command line's options, and cache what they compose to.

Hydra is only imported when a command line is new: composed options are cached by the state of the
conf tree, the overrides and our version.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from sintra import __version__
from sintra.config import checks
from sintra.config.checks import Origins
from sintra.config.hydra_values import hydra_values
from sintra.config.options import Config, from_json
from sintra.config.profile_file import read_profile_file
from sintra.config.quoting import (
    TAKES_NO_CODE,
    check_interpolation,
    escaped,
    is_file,
    is_folder,
    names_path,
    quoted,
    unquoted,
    user_path,
)
from sintra.config.slugs import slug
from sintra.core import plugins
from sintra.core.canonical import canonical, sealed, sha256, unsealed
from sintra.core.errors import UserError, nearest
from sintra.store.files import read_regular, write_if_possible

TIMEOUT = "limits.timeout"  # stage -> seconds
NEEDED = {  # options that can't be empty -> what they name
    "store.path": "a folder",
    "texts.calibration": "a file or own",
    "texts.search": "a file or own",
    "texts.report": "a file or own",
    "texts.second": "a file or null (none)",
}
GROUPS = (
    *("hardware", "model", "goal", "planner", "probe", "texts", "store", "executor", "device"),
    "effort",  # sets options of planner and probe
)


def overrides_of(argv: list[str]) -> list[str]:
    """Return the Hydra overrides of a command line, raw and in order."""
    return [a for a in argv if not a.startswith("-") and "=" in a]


def conf_dirs(root: Path) -> list[Path]:
    """Return where groups are looked up: the project's conf, then SINTRA_CONF_PATH."""
    extra = [Path(p) for p in os.environ.get("SINTRA_CONF_PATH", "").split(os.pathsep) if p]
    for path in extra:
        if not path.is_dir():
            raise UserError(f"SINTRA_CONF_PATH names {str(path)!r}, which is not a folder")
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


def text_keys() -> dict[str, bool]:
    """Return every dotted key whose value is a text, and whether it may be null."""
    kinds = {"str": False, "str | None": True}
    return {key: kinds[kind] for key, kind in option_types().items() if kind in kinds}


def option_types() -> dict[str, str]:
    """Return the annotation of every option's field, by dotted key."""
    return dict(_annotations(Config, ""))


def _annotations(node: Any, prefix: str) -> Iterator[tuple[str, str]]:
    """Yield (dotted key, annotation) of every option."""
    for option in fields(node):
        default = option.default_factory() if callable(option.default_factory) else None
        if is_dataclass(default):
            yield from _annotations(type(default), f"{prefix}{option.name}.")
        else:
            yield prefix + option.name, str(option.type)


def checked(root: Path, raw: list[str]) -> list[str]:
    """Return the overrides as Hydra takes them, after a check of every key and group name.

    `model=` may be a name in conf/model, a hub id (owner/name, with @revision), or a folder. Raises
    UserError.
    """
    seen: set[str] = set()
    typed = {override.partition("=")[0] for override in raw}
    result = []
    texts = text_keys()
    for override in raw:
        key, _, value = override.partition("=")
        plain = key.lstrip("+~")
        if plain != key:
            raise UserError(
                f"{override!r}: `+` and `~` are not taken here; every key exists, so write "
                f"{plain}={value}"
            )
        if key in seen:
            raise UserError(f"{key!r} is given twice")
        seen.add(key)
        if key in GROUPS:
            expanded = _group(root, key, value, raw)
            result += [o for o in expanded if o == expanded[0] or o.partition("=")[0] not in typed]
        elif key in texts:
            result.append(f"{key}={_text(root, key, value, texts[key])}")
        elif is_timeout(key):
            check_interpolation(key, value)
            result.append(f"+{override}")  # an entry of a mapping, to Hydra
        elif key in keys():
            check_interpolation(key, value)
            result.append(override)
        else:
            raise UserError(f"unknown option {key!r}: {nearest(key, keys() | set(GROUPS))}")
    return result


def _group(root: Path, group: str, value: str, raw: list[str]) -> list[str]:
    """Return the overrides of an option that names a file of conf/, or a file or folder."""
    plain = unquoted(value)
    if group == "model":
        return _model(root, plain)
    if group == "texts":
        return _texts(root, plain, raw)
    if group == "hardware" and (path := profile_path(root, f"hardware={value}")):
        return [f"hardware={_own_name(path)}"]
    if plain not in names(root, group):
        raise UserError(f"no {group} is called {plain!r}: {nearest(plain, names(root, group))}")
    return [f"{group}={quoted(plain)}"]


def _text(root: Path, key: str, value: str, optional: bool) -> str:
    """Return a text option's value as Hydra takes it: what was typed, whatever is in it.

    optional: whether null means none. Raises UserError.
    """
    if optional and value == "null":
        return value
    if key in NEEDED and (not unquoted(value) or value == "null"):
        raise UserError(f"{key}={value} names nothing: give {NEEDED[key]}, or leave {key} out")
    if "${" in value and not names_path(root, value):
        raise UserError(f"{key}: {TAKES_NO_CODE}")
    return quoted(unquoted(value))


def profile_path(root: Path, override: str) -> Path | None:
    """Return the file of hardware=PATH, a YAML such as `doit detect` writes. Raises UserError.

    It is None for any other override.
    """
    key, _, value = override.partition("=")
    value = unquoted(value)
    if key != "hardware" or not value.endswith((".yaml", ".yml")):
        return None
    path = root / user_path(value)
    if not is_file(path):
        raise UserError(
            f"hardware={value}: there is no such file; `doit detect --out {value}` writes one"
        )
    return path


def _own_name(path: Path) -> str:
    return f"file_{sha256(str(path.resolve()))[:8]}"


def _write_profile(folder: Path, path: Path) -> None:
    """Put a profile's values where Hydra looks for groups, under a name that no profile of ours
    has. Raises UserError.
    """
    import yaml

    values = {
        key: escaped(value) if isinstance(value, str) else value
        for key, value in read_profile_file(path).items()
    }
    (folder / "hardware").mkdir(exist_ok=True)
    (folder / "hardware" / f"{_own_name(path)}.yaml").write_text(yaml.safe_dump(values))


def _model(root: Path, value: str) -> list[str]:
    if value in names(root, "model"):
        return [f"model={quoted(value)}"]
    folder = user_path(value)
    if folder.name == "config.json" and is_file(folder):
        folder = folder.parent
    if folder.suffix == ".gguf" and is_file(folder):
        return _custom(slug(folder.stem), str(folder))
    if is_folder(folder):
        end = "/" if folder.suffix == ".gguf" else ""  # a folder that is called like a file
        bundled = ["model.texts=stories"] if _is_bundled(root, folder) else []
        return _custom(slug(folder.resolve().name), f"{folder}{end}") + bundled
    hub = re.fullmatch(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", value)
    if not hub or value.startswith((".", "/", "~")):
        known = nearest(value, names(root, "model"))
        raise UserError(
            f"no model is called {value!r}, and there is no such folder or file: {known}; a hub "
            "model is owner/name"
        )
    revision = [f"model.revision={quoted(hub[2])}"] if hub[2] else []
    return _custom(slug(hub[1]), hub[1]) + revision


def _custom(name: str, source: str) -> list[str]:
    """Return the overrides of a model that conf/model doesn't have."""
    return ["model=custom", f"model.name={quoted(name)}", f"model.source={quoted(source)}"]


def _is_bundled(root: Path, folder: Path) -> bool:
    """Return whether a folder is that of a bundled model."""
    path = (root / folder).resolve()
    return path.parent == (root / "models").resolve() and path.name in names(root, "model")


def _texts(root: Path, value: str, raw: list[str]) -> list[str]:
    """Return `texts=` as Hydra takes it: a name in conf/texts, or a folder of text files."""
    if value in names(root, "texts"):
        return [f"texts={quoted(value)}"]
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
            found.append(f"texts.{role}={quoted(str(path))}")
        elif role != "second":
            raise UserError(
                f"texts={value}: the folder has no {role}.txt (calibration.txt, search.txt and "
                "report.txt, of different content; second.txt of another domain may be there)"
            )
    return found


def compose(root: Path, raw: list[str], cache: Path | None = None) -> Config:
    """Return the composed and checked options. Raises UserError in one line."""
    for override in raw:
        if not override.isprintable():
            raise UserError(f"{override!r} has characters in it that can't be written down")
    profiles = [path for override in raw if (path := profile_path(root, override))]
    key = sha256(canonical(state_of(root, raw, profiles)))
    path = cache / "meta" / "compose" / f"{key}.json" if cache else None
    values = read_composed(path) if path else None
    if values is not None:
        with suppress(KeyError, TypeError, AttributeError):  # of another shape: composed again
            return from_json(Config, values)
    values = _checked_values(root, raw, profiles)
    if path:
        write_if_possible(path, sealed(canonical(values)))
    return from_json(Config, values)


def _checked_values(root: Path, raw: list[str], profiles: list[Path]) -> dict[str, Any]:
    """Return composed and checked options in JSON's types. Raises UserError.

    profiles: the files of hardware=PATH.
    """
    overrides = checked(root, raw)
    if not profiles and (named := _named_profile(root, raw)):
        profiles = [named]  # read as strictly as a file from elsewhere, and instead of the original
        overrides = [o for o in overrides if not o.startswith("hardware=")]
        overrides.append(f"hardware={_own_name(named)}")
    with tempfile.TemporaryDirectory(prefix="sintra-") as folder:
        for profile in profiles:
            _write_profile(Path(folder), profile)
        origins = _origins(root, raw, overrides, profiles)
        folders = [*conf_dirs(root), *([Path(folder)] if profiles else [])]
        return hydra_values(folders, overrides, origins)


def _named_profile(root: Path, raw: list[str]) -> Path | None:
    """Return the file of hardware=NAME, or of the profile that conf/config.yaml starts from."""
    given = [unquoted(o.partition("=")[2]) for o in raw if o.startswith("hardware=")]
    name = given[0] if given else _default_choices(root).get("hardware", "")
    return _group_file(root, "hardware", name)


def _default_choices(root: Path) -> dict[str, str]:
    """Return group -> name as conf/config.yaml lists them; empty for a file that can't be read."""
    import yaml  # not on the no-op path

    try:
        config = yaml.safe_load((root / "conf" / "config.yaml").read_text())
        defaults = config["defaults"]
    except (OSError, ValueError, RecursionError, LookupError, TypeError, yaml.YAMLError):
        return {}
    items = [item for item in defaults if isinstance(item, dict)] if defaults else []
    return {str(group): str(name) for item in items for group, name in item.items()}


def _group_file(root: Path, group: str, name: str) -> Path | None:
    """Return the file of a group's name: the first folder that has it wins, as in Hydra."""
    paths = (folder / group / f"{name}.yaml" for folder in conf_dirs(root))
    return next((path for path in paths if is_file(path)), None)


def _origins(root: Path, raw: list[str], overrides: list[str], profiles: list[Path]) -> Origins:
    """Return where each group's values come from, for messages."""
    given = dict(override.partition("=")[::2] for override in overrides)
    chosen = _default_choices(root) | {
        group: unquoted(given[group]) for group in GROUPS if group in given
    }
    files = {group: _group_file(root, group, name) for group, name in chosen.items()}
    files |= {"hardware": profiles[0]} if profiles else {}
    files[""] = root / "conf" / "config.yaml"
    return Origins(root, tuple(raw), {group: file for group, file in files.items() if file})


def state_of(root: Path, raw: list[str], profiles: list[Path]) -> list[Any]:
    """Return all that composed options depend on, in JSON's types."""
    files = [
        (str(path), path.stat().st_mtime_ns, path.stat().st_size)
        for folder in conf_dirs(root)
        for path in sorted(folder.rglob("*.yaml"))
    ]
    texts = [[str(path), sha256(path.read_text(errors="replace"))] for path in profiles]
    # a new option is missing from older caches, and older checks let more pass
    schema = [__version__, checks.VERSION, *sorted(keys())]
    return [schema, files, texts, raw, [str(path) for path in conf_dirs(root)]]


def read_composed(path: Path) -> dict[str, Any] | None:
    """Return composed options from the cache; None where there are none."""
    try:
        return unsealed(read_regular(path), required=True)
    except OSError:
        return None
