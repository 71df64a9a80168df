"""Lets ``transformers.trainer_utils`` be imported without ``peft``, which is then imported when somebody uses it.

That module imports peft, where it is installed, for two classes that it compares models with. peft brings
bitsandbytes and torch's compiler along, which is more than half of what a driver imports, and most runs have no
adapter. So the two names stand for the classes until peft is there: no object is an instance of a class whose module
nobody has imported.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:  # importlib.abc imports what reads zip files
    from importlib.abc import Loader

_IMPORTS_PEFT = "transformers.trainer_utils"


class _StandIn(type):
    """The class of a stand-in, which answers for the class of peft with its name."""

    def _real(cls) -> Any:
        peft = sys.modules.get("peft")
        return None if peft is None else getattr(peft, cls.__name__, None)

    def __instancecheck__(cls, instance: object) -> bool:
        real = cls._real()
        return real is not None and isinstance(instance, real)

    def __subclasscheck__(cls, subclass: type) -> bool:
        real = cls._real()
        return real is not None and issubclass(subclass, real)

    def __getattr__(cls, name: str) -> Any:
        """Whoever reads anything else of it uses peft."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(getattr(importlib.import_module("peft"), cls.__name__), name)


class _Module(ModuleType):
    """Has a stand-in for whatever is imported from it."""

    def __getattr__(self, name: str) -> _StandIn:
        if name.startswith("__"):
            raise AttributeError(name)
        return _StandIn(name, (), {})


class _Finder:
    """Takes part in one import, that of ``transformers.trainer_utils``."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _IMPORTS_PEFT:
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        if spec is not None and spec.loader is not None and "peft" not in sys.modules and find_spec("peft"):
            spec.loader = cast("Loader", _WithoutPeft(spec.loader))
        return spec


class _WithoutPeft:
    """Loads a module, and leaves peft out."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader  # Whoever looks at the module finds its own loader.
        module.__loader__ = self._loader
        stand_in = _Module("peft")
        stand_in.__spec__ = ModuleSpec("peft", None)  # Whoever asks whether peft is installed looks at it.
        sys.modules["peft"] = stand_in
        try:
            self._loader.exec_module(module)
        finally:
            if sys.modules.get("peft") is stand_in:
                del sys.modules["peft"]


def import_peft_on_use() -> None:
    """From now on, importing ``transformers.trainer_utils`` does not import peft."""
    if _IMPORTS_PEFT not in sys.modules and not any(isinstance(one, _Finder) for one in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
