"""What to do about a module that a worker could not import: it depends on where the driver has it."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib import metadata
from importlib.machinery import ModuleSpec

from raytrainer.wire.importable import location
from raytrainer.wire.module_sources import why_not_sent
from raytrainer.wire.search_path import is_installed

_MISSING = re.compile(r"No module named '?([\w.]+)")
_DIFFERENT = re.compile(
    r"Can't get attribute '(?P<name>[^']+)' on <module '(?P<module>[\w.]+)'"
    r"|cannot import name '(?P<other_name>[^']+)' from '(?P<other_module>[\w.]+)'"
)


def missing_module_hint(text: str, node: str | None) -> str | None:
    """What to set so that a worker finds what it could not import; None if that is not the error.

    Args:
        text: What the worker raised.
        node: The machine that it ran on, if known.
    """
    there = node or "the workers' nodes"
    if found := _MISSING.search(text):
        return _about_missing(found[1].partition(".")[0], found[1], there)
    if found := _DIFFERENT.search(text):
        name, module = found["name"] or found["other_name"], found["module"] or found["other_module"]
        top = module.partition(".")[0]
        place, release = _place(top) or "nowhere", _release(top)
        return (
            f"the driver's {module} ({release or place}) and that on {there} differ in {name!r}: install the same "
            "version there"
        )
    return None


def _about_missing(top: str, name: str, there: str) -> str:
    place, release = _place(top), _release(top)
    if place is None and top in sys.modules:
        return (
            f"{top!r} exists only in the memory of the driver: write it to a file that can be imported, or use it "
            "through objects of the trainer, which are sent with their code"
        )
    if place is None:
        return f"{name!r} cannot be imported by the driver either: install it here and on {there}"
    if is_installed(place):
        return (
            f"the driver has {top!r} ({release or place}); install it on {there}, or let Ray do that: "
            f'ray.init(runtime_env={{"pip": ["{release or top}"]}}) before the trainer starts'
        )
    reason = why_not_sent(top) or f"the driver finds {top!r} in {place}"
    return (
        f"{reason}; import it before train(), or let Ray send it: "
        f'ray.init(runtime_env={{"py_modules": ["{place}"]}}) before the trainer starts'
    )


def _place(top: str) -> str | None:
    """Where the driver has a top-level module."""
    if top in sys.modules:
        return location(sys.modules[top])
    try:
        spec: ModuleSpec | None = importlib.util.find_spec(top)
    except Exception:  # noqa: BLE001  finders of other libraries may raise anything
        return None
    if spec is None:
        return None
    return next(iter(spec.submodule_search_locations or ()), spec.origin)


def _release(top: str) -> str | None:
    """The package that brings a module, as pip takes it: ``name==version``."""
    names = metadata.packages_distributions().get(top)
    return f"{names[0]}=={metadata.version(names[0])}" if names else None
