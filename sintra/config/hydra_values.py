"""Let Hydra compose options, with no resolver but references to other options, and check them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sintra.config.checks import Origins, check_references, check_values
from sintra.config.options import Config
from sintra.config.quoting import TAKES_NO_CODE, quoted
from sintra.core.errors import UserError
from sintra.core.text import printable_line

LONGEST_REASON = 400  # characters of a message of Hydra's


def hydra_values(folders: Sequence[Path], overrides: list[str], origins: Origins) -> dict[str, Any]:
    """Return what Hydra composes, in JSON's types, checked. Raises UserError.

    folders: where groups are looked up, the project's conf first; overrides: in Hydra's grammar.
    """
    from hydra import compose as hydra_compose  # not on the no-op path
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.errors import HydraException
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import OmegaConfBaseException

    ConfigStore.instance().store(name="schema", node=writable_schema())
    main, *more = (str(folder.resolve()) for folder in folders)
    found = ",".join(quoted(f"file://{path}") for path in more)
    paths = [f"hydra.searchpath=[{found}]"] if more else []
    try:
        with without_environment(), initialize_config_dir(config_dir=main, version_base="1.3"):
            config = hydra_compose("config", overrides=[*overrides, *paths])
            with open_dict(config):
                check_references(_plain(OmegaConf.to_container(config)), origins)
                values = _plain(OmegaConf.to_container(config, resolve=True))
    except (HydraException, OmegaConfBaseException, OverflowError, RecursionError) as error:
        raise UserError(_composing_error(error, origins)) from None
    check_values(values, origins)
    return values


def _plain(container: Any) -> dict[str, Any]:
    """Return a container of OmegaConf's as a dictionary."""
    return {str(key): value for key, value in container.items()}


def _composing_error(error: BaseException, origins: Origins) -> str:
    """Return an error of Hydra's in one line, with the file, key and value where it has them."""
    from omegaconf.errors import OmegaConfBaseException  # not on the no-op path

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    for link in chain:
        if isinstance(link, OmegaConfBaseException) and (key := link.full_key):
            reason = str(link.msg or link).splitlines()[0]
            value = link.value if link.value is not None else "null"
            return f"{origins.where(key, value)}: {printable_line(reason, LONGEST_REASON)}"
    reason = next((x for x in str(chain[-1]).splitlines() if x.strip()), type(error).__name__)
    return printable_line(f"{reason} ({' '.join(origins.raw)})", LONGEST_REASON)


@contextlib.contextmanager
def without_environment() -> Iterator[None]:
    """Keep OmegaConf from reading the environment while options are composed.

    Values are checked before they are resolved; this is for what Hydra resolves by itself (lists of
    defaults, its own options).
    """
    from omegaconf import OmegaConf  # not on the no-op path
    from omegaconf.resolvers import oc

    def refuse(*_: object) -> str:
        raise UserError(TAKES_NO_CODE)

    OmegaConf.register_new_resolver("oc.env", refuse, replace=True)
    try:
        yield
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)


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
