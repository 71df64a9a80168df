"""Large objects that were stored once for many processes, and travel as a reference from then on.

The trials of a sweep begin with the same datasets. Whoever stores such an object registers it here; pickles then hold
its reference instead, and each process that unpickles one fetches it once and passes it on in the same way.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class StoredObject:
    """Where an object is stored."""

    name: str
    """The same in all processes."""
    fetch: Callable[[Any], object]
    """Gives the object for its reference; a function that every process can import."""
    reference: Any
    """Of Ray, which keeps the object as long as something has its reference: pickle it with Ray only."""


_lock = threading.RLock()
_objects: dict[str, object] = {}
_stored: dict[int, StoredObject] = {}


def register(value: object, stored: StoredObject) -> None:
    """Let a value travel as a reference; keeps it until ``forget``."""
    with _lock:
        _objects[stored.name] = value
        _stored[id(value)] = stored


def forget(names: list[str]) -> None:
    """Let the objects of these names travel by value again, and keep them no longer."""
    with _lock:
        for name in names:
            _stored.pop(id(_objects.pop(name, None)), None)


def where_is(value: object) -> StoredObject | None:
    """Where a value is stored; None for one that travels by value."""
    return _stored.get(id(value)) if _stored else None


def fetch(stored: StoredObject) -> object:
    """The object of a reference that came in a pickle; fetched once in each process."""
    with _lock:
        if stored.name not in _objects:
            register(stored.fetch(stored.reference), stored)
        return _objects[stored.name]
