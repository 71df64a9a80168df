"""A value in pieces, each pickled by itself: a piece that cannot travel, or cannot be read, does not lose the others.

The pieces of a dict or a named tuple are what it holds, such as metrics. A list or an object is taken apart only when
it cannot be pickled as a whole. Without its piece, a dict or an object has no such entry, a list is shorter, and a
named tuple has None. What was left out is told by name.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from raytrainer.wire.pickling import Shipped, pack, unpack

MAX_PIECES = 1000
"""Entries up to which a dict is taken apart."""
MAX_DEPTH = 4
"""How deep what cannot be pickled is taken apart."""


class Kind(enum.Enum):
    """What a value is made of."""

    WHOLE = enum.auto()
    DICT = enum.auto()
    NAMED_TUPLE = enum.auto()
    LIST = enum.auto()
    OBJECT = enum.auto()


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """A value in transport form."""

    kind: Kind = Kind.WHOLE
    packed: Shipped | None = None
    """The whole value, or the type of a named tuple or an object."""
    why_not: str | None = None
    """Why it cannot be pickled."""
    entries: dict[str, Pieces] = field(default_factory=dict[str, "Pieces"])
    """What it holds, by key, field, position or attribute."""


def in_pieces(value: object, known: Mapping[int, str] | None = None, depth: int = MAX_DEPTH) -> Pieces:
    """Bring a value into transport form. Never raises.

    Args:
        value: Any object.
        known: ``id()`` of each object that the other side has already -> its name.
        depth: How deep what cannot be pickled is taken apart.
    """
    kind, entries = _entries_of(value)
    try:
        if kind is Kind.WHOLE:
            return Pieces(packed=pack(value, known))
    except Exception as error:  # noqa: BLE001 - pickling runs code of the user, which may raise anything
        kind, entries = _entries_of_unpicklable(value, known) if depth > 0 else (Kind.WHOLE, {})
        if kind is Kind.WHOLE:
            return Pieces(why_not=_reason(error))
    return Pieces(
        kind=kind,
        packed=pack(type(value)) if kind in (Kind.NAMED_TUPLE, Kind.OBJECT) else None,
        entries={name: in_pieces(entry, known, depth - 1) for name, entry in entries.items()},
    )


def from_pieces(
    pieces: Pieces, name: str, left_out: dict[str, str], find: Callable[[str], object] | None = None
) -> Any:
    """Rebuild a value as far as it can be read here. Never raises.

    Args:
        pieces: The value in transport form.
        name: What it is called in messages.
        left_out: Gets the names of what is missing, each with the reason.
        find: Gives the object of a name that ``in_pieces`` was told about.

    Returns:
        The value; None if all of it is missing.
    """
    if pieces.why_not is not None:
        left_out[name] = pieces.why_not
        return None
    pattern = "{}[{}]" if pieces.kind in (Kind.DICT, Kind.LIST) else "{}.{}"
    named = {key: pattern.format(name, key) for key in pieces.entries}
    entries = {key: from_pieces(entry, named[key], left_out, find) for key, entry in pieces.entries.items()}
    found = {key: entry for key, entry in entries.items() if named[key] not in left_out}
    try:
        return _built(pieces, entries, found, find)
    except Exception as error:  # noqa: BLE001 - reading runs code of the user, which may raise anything
        left_out[name] = _reason(error)
        return None


def _built(
    pieces: Pieces,
    entries: dict[str, Any],
    found: dict[str, Any],
    find: Callable[[str], object] | None,
) -> Any:
    if pieces.kind is Kind.DICT:
        return found
    if pieces.kind is Kind.LIST:
        return list(found.values())
    assert pieces.packed is not None
    value = unpack(pieces.packed, find)
    if pieces.kind is Kind.NAMED_TUPLE:
        return value(**entries)
    if pieces.kind is Kind.OBJECT:
        empty = value.__new__(value)
        vars(empty).update(found)
        return empty
    return value


def _entries_of(value: Any) -> tuple[Kind, dict[str, Any]]:
    if cast("type[object]", type(value)) is dict:
        entries = cast("dict[object, Any]", value)
        if 0 < len(entries) <= MAX_PIECES and all(isinstance(key, str) for key in entries):
            return Kind.DICT, cast("dict[str, Any]", entries)
    fields: Any = getattr(value, "_asdict", None)
    if fields is not None and isinstance(value, tuple):
        return Kind.NAMED_TUPLE, fields()
    return Kind.WHOLE, {}


def _entries_of_unpicklable(value: object, known: Mapping[int, str] | None) -> tuple[Kind, dict[str, Any]]:
    if type(value) is list:
        items = cast("list[Any]", value)
        return Kind.LIST, {str(position): item for position, item in enumerate(items)}
    try:
        pack(type(value), known)
        return (Kind.OBJECT, dict(vars(value))) if _is_plain(value) else (Kind.WHOLE, {})
    except Exception:  # noqa: BLE001 - then there is nothing to take apart
        return Kind.WHOLE, {}


def _is_plain(value: object) -> bool:
    """Whether an object is its attributes, such as a dataclass."""
    return hasattr(value, "__dataclass_fields__") and not isinstance(value, type)


class BoundError(Exception):
    """An object exists in a worker's process only."""


def _reason(error: Exception) -> str:
    if isinstance(error, BoundError):
        return str(error)
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
