"""Read and quote the values that people type: one function quotes for Hydra, one expands paths.

A text option (a path, a name, an address) is what was typed: commas, quotes, `${`, a leading `~`,
and words such as null, true, 1.10 or 1e5 mean nothing in it. Quotes around the whole are taken off.
"""

from __future__ import annotations

import re
from pathlib import Path

from sintra.core.errors import UserError

INTERPOLATION = re.compile(r"(\\*)\$\{")
# what stands behind the `${` of an OmegaConf reference to another option: hardware.usable_gb}
REFERENCE = re.compile(r"\.*[A-Za-z_][\w.]*\}")
OWN_QUOTES = re.compile(r"""(?P<q>['"])(?P<text>(?:\\(?P=q)|(?!(?P=q)).)*)(?P=q)""", re.DOTALL)
TAKES_NO_CODE = (
    "the environment isn't read by options, since they are written down, nor is anything else but "
    "another option (${hardware.usable_gb})"
)


def quoted(text: str) -> str:
    """Return a text as a value of Hydra's grammar that means the text, whatever is in it."""
    literal = escaped(text)
    inside = re.sub(r"(\\*)'", r"\1\1\\'", literal)
    return "'" + re.sub(r"(\\+)$", r"\1\1", inside) + "'"


def escaped(text: str) -> str:
    """Return a text in which OmegaConf sees no interpolation, and which it reads as this text."""
    return INTERPOLATION.sub(lambda match: match[1] * 2 + "\\${", text)


def unquoted(value: str) -> str:
    """Return a typed value without the quotes around it."""
    match = OWN_QUOTES.fullmatch(value)
    return match["text"].replace("\\" + match["q"], match["q"]) if match else value


def has_foreign_interpolation(text: str) -> bool:
    """Return whether a text has an interpolation that is more than a reference to another option.

    Resolvers (`oc.env` and the like) are, and so is whatever OmegaConf's grammar may hide them in.
    """
    return any(
        len(match[1]) % 2 == 0 and not REFERENCE.match(text, match.end())
        for match in INTERPOLATION.finditer(text)
    )


def check_interpolation(where: str, text: str) -> None:
    """Raise UserError for a text that would be more than itself and other options.

    where: names the value, for the message.
    """
    if has_foreign_interpolation(text):
        raise UserError(f"{where}: {TAKES_NO_CODE}")


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


def names_path(root: Path, value: str) -> bool:
    """Return whether a value is an existing file or folder, seen from the project's folder.

    Such a value is that path, and never a list of several values.
    """
    path = root / user_path(unquoted(value))
    return bool(value) and (is_file(path) or is_folder(path))
