"""Lay down a project: dodo.py, conf/ and the bundled models, from the repository or a wheel."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sintra.core.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
PARTS = ("dodo.py", "conf", "models/fable", "models/fable_mini", "models/texts", "models/tasks")
IGNORED = "cache/\noutputs/\n.doit.db*\n"
NEXT = """next:
  doit plan hardware=laptop                    the dry run: what would be done
  doit optimize hardware=laptop                the bundled model, some minutes
  doit optimize hardware=auto model=./FOLDER   your model, for this machine
  doit export_ollama                           hand the winner over
names to choose from: conf/hardware, conf/model, conf/goal; `sintra ...` is `doit ...`"""


def source_folder() -> Path:
    """Return the folder with dodo.py, conf/ and models/: in a wheel, else the repository."""
    inside = PACKAGE / "project"
    return inside if inside.is_dir() else PACKAGE.parent


@dataclass
class InitReport:
    """What `init` did with each file, by its path in the project."""

    written: list[str] = field(default_factory=list)
    differing: list[str] = field(default_factory=list)  # left as they were, though not ours


def project_files() -> Iterator[str]:
    """Yield every file that a project starts from, by its path in it.

    Raises UserError where the installation lacks them.
    """
    for part in PARTS:
        path = source_folder() / part
        if not path.exists():
            raise UserError(
                f"this installation of sintra has no {part}: install it again (pip install "
                "--force-reinstall)"
            )
        paths = sorted(path.rglob("*")) if path.is_dir() else [path]
        yield from (
            p.relative_to(source_folder()).as_posix()
            for p in paths
            if p.is_file() and "__pycache__" not in p.parts
        )


def init(folder: Path) -> InitReport:
    """Write a project's files; nothing that exists is overwritten. Raises UserError."""
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    if folder.resolve() == source_folder():
        raise UserError("this is Sintra's own folder, and a project already: run `doit` here")
    report = InitReport()
    for name in project_files():
        source, target = source_folder() / name, folder / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source, target)
            report.written.append(name)
        elif target.read_bytes() != source.read_bytes():
            report.differing.append(name)
    if not (folder / ".gitignore").exists():
        (folder / ".gitignore").write_text(IGNORED)
    return report


def in_words(report: InitReport) -> str:
    """Return what was done, and what can be done next."""
    tops = ", ".join(dict.fromkeys(n.split("/")[0] + "/" * ("/" in n) for n in report.written))
    lines = [
        f"wrote {len(report.written)} files: {tops}" if tops else "everything is there already"
    ]
    lines += [
        f"left as it is, though it differs from this version's: {name}" for name in report.differing
    ]
    return "\n".join([*lines, NEXT])
