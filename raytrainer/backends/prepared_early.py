"""What was prepared with a trainer's accelerator before the trainer was bound, and how that is carried out later.

The notes travel to the workers with the trainer, so a note and the attribute that holds its result stay one object.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from typing import Any, cast

from accelerate import Accelerator
from torch import nn


@dataclass(frozen=True, eq=False)
class Preparation:
    """One call of a ``prepare`` method before the trainer was bound."""

    method: str
    """``prepare_model``, ``prepare_optimizer``, ..."""
    given: Any
    options: dict[str, Any]
    loader: weakref.ref[Any] | None = None
    """The loader that the caller got, as long as somebody has it; None where the caller got back what was given."""

    @property
    def result(self) -> Any:
        """What the caller got, and may have stored; None if it is gone."""
        return self.given if self.loader is None else self.loader()

    def __reduce__(self) -> Any:
        return note, (self.method, self.given, self.options, self.result)


def note(method: str, given: Any, options: dict[str, Any], result: Any) -> Preparation:
    """Note a call.

    Args:
        method: Of the accelerator.
        given: What is to be prepared.
        options: Keyword arguments of the call.
        result: What the caller gets; a loader that is not held by anybody is not prepared later.
    """
    loader = None if result is given else weakref.ref(result)
    return Preparation(method, given, options, loader)


def carry_out(
    preparations: list[Preparation], accelerator: Accelerator, holders: list[dict[str, Any]]
) -> None:
    """All ranks: prepare what was noted, in the same order.

    Args:
        preparations: The notes.
        accelerator: Of the process that trains.
        holders: Where results may have been stored, by name; those that change are replaced there.
    """
    results: dict[int, Any] = {}
    for one in preparations:
        result = one.result
        if result is not None:
            prepared = getattr(accelerator, one.method)(one.given, **one.options)
            if prepared is not result:
                results[id(result)] = prepared
    if results:
        for holder in holders:
            _replace_in(holder, results)


def is_held(item: object, value: object) -> bool:
    """Whether a value is an object, or holds it where ``carry_out`` replaces it."""
    if item is None or value is item:
        return item is not None
    inside: Any = value._modules if isinstance(value, nn.Module) else value
    if isinstance(inside, dict):
        inside = list(cast("dict[Any, Any]", inside).values())
    return isinstance(inside, list | tuple) and any(is_held(item, one) for one in cast("list[Any]", inside))


def _replace_in(container: dict[Any, Any] | list[Any], results: dict[int, Any]) -> None:
    """Put prepared objects where their originals are: in a dict or list, in those inside it, and in modules."""
    for key in list(container) if isinstance(container, dict) else range(len(container)):
        container[key] = _replaced(container[key], results)


def _replaced(value: Any, results: dict[int, Any]) -> Any:
    if id(value) in results:
        return results[id(value)]
    if isinstance(value, tuple):
        return _replaced_tuple(cast("tuple[Any, ...]", value), results)
    inside: Any = value._modules if isinstance(value, nn.Module) else value
    if isinstance(inside, dict | list):
        _replace_in(cast("dict[Any, Any]", inside), results)
    return cast("Any", value)


def _replaced_tuple(items: tuple[Any, ...], results: dict[int, Any]) -> tuple[Any, ...]:
    parts = [_replaced(one, results) for one in items]
    if all(part is one for part, one in zip(parts, items, strict=True)):
        return items
    kind: Any = type(items)
    return kind(*parts) if hasattr(items, "_fields") else kind(parts)
