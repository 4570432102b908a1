"""Modules that are imported at their first use: stages are declared in every run, and rarely run.

importlib's own LazyLoader lets a second thread see a half-made module before Python 3.11.9 and
3.12.3 (python/cpython issue 114763), and studies run in threads.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from typing import Any


class Lazy:
    """A stand-in for a module, which the first use of an attribute imports."""

    def __init__(self, name: str) -> None:
        self.__dict__["_name"] = name

    def __getattr__(self, attribute: str) -> Any:
        return getattr(importlib.import_module(self._name), attribute)

    def __setattr__(self, attribute: str, value: Any) -> None:
        setattr(importlib.import_module(self._name), attribute, value)

    def __delattr__(self, attribute: str) -> None:
        delattr(importlib.import_module(self._name), attribute)


def module(name: str) -> Any:
    """Return the module of a dotted name, or a stand-in that imports it at its first use.

    Raises ModuleNotFoundError where there is none.
    """
    if name in sys.modules:
        return sys.modules[name]
    if importlib.util.find_spec(name) is None:
        raise ModuleNotFoundError(name)
    return Lazy(name)
