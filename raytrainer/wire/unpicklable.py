"""Which part of an object cannot be pickled: an attribute, an item, or a variable that a function reads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType
from typing import cast

from raytrainer.wire.pickling import pack


def find_unpicklable(
    path: str, value: object, error: Exception, depth: int = 3
) -> tuple[str, object, Exception]:
    """Find the deepest part that fails on its own: an attribute, an item, or a variable that a function reads.

    Args:
        path: What the object is called in messages.
        value: The object that could not be pickled.
        error: What pickling it raised.
        depth: How many levels to look into.

    Returns:
        The path of the part, such as ``trainer.model[0].<file>``, the part, and what pickling it raised.
    """
    if depth > 0:
        for child_path, child in _parts(path, value):
            try:
                pack(child)
            except Exception as child_error:  # noqa: BLE001  any exception marks the part that is looked for
                return find_unpicklable(child_path, child, child_error, depth - 1)
    return path, value, error


def _parts(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        mapping = cast("Mapping[object, object]", value)
        for key, item in mapping.items():
            yield f"{path}[{key!r}]", item
    elif isinstance(value, list | tuple | set | frozenset):
        items = cast("Iterable[object]", value)
        for index, item in enumerate(items):
            yield f"{path}[{index}]", item
    elif isinstance(function := getattr(value, "__func__", value), FunctionType):
        for name, item in _variables_of(function):
            yield f"{path}.<{name}>", item
    elif not isinstance(value, type):
        for name, item in _state_of(value).items():
            yield f"{path}.{name}", item


def _variables_of(function: FunctionType) -> Iterator[tuple[str, object]]:
    """What a function closes over, and the variables of its module that it reads; both are sent with its code."""
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        with contextlib.suppress(ValueError):  # nothing was assigned to it yet
            yield name, cast("object", cell.cell_contents)
    for name in function.__code__.co_names:
        if name in function.__globals__:
            yield name, function.__globals__[name]


def _state_of(value: object) -> dict[str, object]:
    try:
        state: object = value.__getstate__()
    except Exception:  # noqa: BLE001  then its attributes are all there is to look at
        state = None
    if isinstance(state, Mapping):
        return dict(cast("Mapping[str, object]", state))
    return dict(getattr(value, "__dict__", {}))
