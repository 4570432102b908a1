"""The wheel, built from a copy of this tree, and environments with it for tests: the packages that
it needs are this environment's own, by a .pth file.
"""

import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from conftest import ROOT

PARTS = (
    "sintra",
    "conf",
    "models",
    "dodo.py",
    "pyproject.toml",
    "setup.py",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "constraints.txt",
)


def build(folder: Path) -> Path:
    """The wheel, as pip builds it, in <folder>/dist."""
    tree = folder / "tree"
    tree.mkdir()
    for name in PARTS:
        source = ROOT / name
        skip = shutil.ignore_patterns("__pycache__", "*.egg-info", "project")
        shutil.copytree(source, tree / name, ignore=skip) if source.is_dir() else shutil.copy(
            source, tree
        )
    pip(
        sys.executable,
        "wheel",
        "--no-build-isolation",
        "--no-deps",
        "--wheel-dir",
        folder / "dist",
        tree,
    )
    return next((folder / "dist").glob("sintra-*.whl"))


def pip(python: str | Path, *args: str | Path) -> None:
    """Run pip for an environment, without a network."""
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        *map(str, args),
        "--quiet",
        "--no-index",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def environment(folder: Path, *packages: Path, more: tuple[Path, ...] = ()) -> Path:
    """A fresh virtual environment with these packages; returns its folder of programs. more:
    folders on its path.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = next(folder.glob("lib/python*/site-packages"))
    # Only the folder is added: its own .pth files, such as this repository's editable one, aren't
    # read.
    (site / "others.pth").write_text(
        "\n".join([sysconfig.get_path("purelib"), *map(str, more)]) + "\n"
    )
    pip(folder / "bin" / "python", "install", "--no-deps", "--no-build-isolation", *packages)
    return folder / "bin"
