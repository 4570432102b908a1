"""What pyproject.toml can't say: a wheel carries conf/, the bundled models and dodo.py as
sintra/project.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROJECT = ("dodo.py", "conf", "models/fable", "models/fable_mini", "models/texts", "models/tasks")


class Build(build_py):
    """Copies what a project starts from; an editable install reads it where it lies."""

    def run(self) -> None:
        """Called by setuptools."""
        super().run()
        if self.editable_mode:
            return
        target = Path(self.build_lib, "sintra", "project")
        shutil.rmtree(target, ignore_errors=True)
        for name in PROJECT:
            source, copy = Path(name), target / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__", ".*"))
            else:
                shutil.copyfile(source, copy)


setup(cmdclass={"build_py": Build})
