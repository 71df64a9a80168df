"""Modules that a test makes and imports, which are forgotten after it; those of libraries stay.

A library whose module was forgotten and imported again would have two classes of one name.
"""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from types import ModuleType

import pytest

_LIBRARIES = tuple(f"{sysconfig.get_path(name)}/" for name in ("stdlib", "purelib", "platlib"))


@pytest.fixture
def own_modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Forget after the test the modules that it made, and what it added to sys.path."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = set(sys.modules)
    packages = {name.partition(".")[0] for name in before}
    yield
    made = [
        name
        for name in set(sys.modules) - before
        if name.partition(".")[0] not in packages and not _is_of_library(sys.modules[name])
    ]
    for name in made:
        del sys.modules[name]


def _is_of_library(module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is not None and spec.origin in ("built-in", "frozen"):
        return True
    places = [getattr(module, "__file__", None) or "", *map(str, getattr(module, "__path__", ()))]
    return any(place.startswith(_LIBRARIES) for place in places)
