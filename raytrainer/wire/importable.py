"""Which modules another process can import, given this one's search path.

Pickles name the module of a class or function, and the other side imports it. That fails for modules that exist in the
memory of this process only: made by ``exec``, loaded from a file under another name, or found by an importer that the
program registered. Their classes and functions travel by value. A module that was loaded from a file outside
``sys.path`` is found when the file's directory is searched too, unless another module has its name.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from importlib.machinery import EXTENSION_SUFFIXES, PathFinder
from types import FunctionType, ModuleType
from typing import cast

from cloudpickle import cloudpickle

from raytrainer.wire.search_path import is_installed

_registered = cast("Callable[[], set[str]]", cloudpickle.list_registry_pickle_by_value)
_register = cast("Callable[[ModuleType], None]", cloudpickle.register_pickle_by_value)
_unregister = cast("Callable[[ModuleType], None]", cloudpickle.unregister_pickle_by_value)

_HEAP_TYPE = 1 << 9
"""Flag of a class that was made by a ``class`` statement, and not in C."""


class ModulesOfPickle:
    """Decides for one pickle how modules travel: by name, or by value."""

    def __init__(self) -> None:
        self._is_importable: dict[str, bool] = {}
        self._by_value: list[ModuleType] = []
        self.directories: dict[str, None] = {}
        """Directories that the other side has to search besides ``sys.path``."""

    def see(self, obj: object) -> None:
        """Look at an object that is about to be pickled; a module that cannot be imported is pickled by value."""
        name = _module_name(obj)
        if name is None or name == "__main__":
            return
        module: object = sys.modules.get(name)
        # What is in sys.modules need not be a module, and need not have the name that it is found by.
        if not isinstance(module, ModuleType) or module.__name__ != name:
            return
        if self.is_importable(name) or not _has_value(obj, module):
            return
        if name not in _registered():
            _register(module)
            self._by_value.append(module)

    def forget(self) -> None:
        """The pickle is done: what was registered for it is no longer."""
        for module in self._by_value:
            _unregister(module)
        self._by_value.clear()

    def is_importable(self, name: str) -> bool:
        """Whether a module that is loaded here can be imported by its name elsewhere."""
        if name not in self._is_importable:
            self._is_importable[name] = self._find(name)
        return self._is_importable[name]

    @property
    def installed(self) -> tuple[str, ...]:
        """The modules that the pickle names and that installed packages have."""
        places = {name: location(sys.modules.get(name)) for name in self._is_importable}
        return tuple(
            sorted(name for name, place in places.items() if place is not None and is_installed(place))
        )

    def _find(self, name: str) -> bool:
        top = name.partition(".")[0]
        module = sys.modules[name]
        # Installed packages make the modules that they have in memory only, such as six.moves, when they are imported.
        place = location(module) or (location(sys.modules[top]) if top in sys.modules else None)
        if top in sys.stdlib_module_names or (place is not None and is_installed(place)):
            return True
        parent = name.rpartition(".")[0]
        if not parent:
            return _finds(module, name, sys.path) or self._is_found_beside(module, name)
        if parent not in sys.modules or not self.is_importable(parent):
            return False
        return _finds(module, name, getattr(sys.modules[parent], "__path__", ()))

    def _is_found_beside(self, module: ModuleType, name: str) -> bool:
        """Whether it is found when the directory that it lies in is searched last."""
        place = location(module)
        directory = os.path.dirname(place) if place else ""
        if not directory or not _finds(module, name, [*sys.path, directory]):
            return False
        self.directories[directory] = None
        return True


def location(module: object) -> str | None:
    """The file of a module, or the directory of a package; None if it has neither, or is no module at all."""
    if not isinstance(module, ModuleType):
        return None
    paths = list(getattr(module, "__path__", None) or ())
    if paths:
        return os.path.abspath(str(paths[0]))
    file = cast("str | None", getattr(module, "__file__", None))
    return os.path.abspath(file) if file else None


def _module_name(obj: object) -> str | None:
    if isinstance(obj, ModuleType):
        return obj.__name__
    name = getattr(obj, "__module__", None) if isinstance(obj, FunctionType | type) else None
    return name if isinstance(name, str) else None


def _has_value(obj: object, module: ModuleType) -> bool:
    """Whether it consists of Python code, which can be sent."""
    if str(getattr(module, "__file__", None)).endswith(tuple(EXTENSION_SUFFIXES)):
        return False
    return not isinstance(obj, type) or bool(obj.__flags__ & _HEAP_TYPE)


def _finds(module: ModuleType, name: str, places: Iterable[str]) -> bool:
    """Whether a search of directories finds this module and no other."""
    try:
        spec = PathFinder.find_spec(name, [str(place) for place in places])
    except Exception:  # noqa: BLE001  finders of other libraries may raise anything
        return False
    if spec is None:
        return False
    file = getattr(module, "__file__", None)
    if file is None or spec.origin is None:  # a namespace package has no file
        return file is None and spec.origin is None and hasattr(module, "__path__")
    return os.path.realpath(spec.origin) == os.path.realpath(file)
