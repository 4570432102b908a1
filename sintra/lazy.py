"""Modules that are only loaded when they are used: a stage's declaration is read on every run, its work rarely done."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any


def module(name: str) -> Any:
    """The module, loaded at the first look at one of its attributes. Raises ModuleNotFoundError where there is none."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(name)
    spec.loader = importlib.util.LazyLoader(spec.loader)
    made = importlib.util.module_from_spec(spec)
    sys.modules[name] = made
    spec.loader.exec_module(made)
    return made
