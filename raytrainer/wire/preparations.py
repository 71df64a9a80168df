"""What a worker does before it unpacks anything that the driver sends, and after its trainer is set up.

Unpacking imports the modules of the user's classes, and what these find must be what the driver found. What a
constructor did to its process, as a seed does, has to be done in the workers' processes too, since the constructor does
not run there. Functions are named, not sent, because what they do is a condition of receiving anything.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

Call = tuple[str, tuple[object, ...]]
"""``module:function``, and arguments."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Preparations:
    """What the workers of a group do besides their tasks."""

    before: tuple[Call, ...] = ()
    """Before the trainer is unpacked."""
    after: tuple[Call, ...] = ()
    """When it is set up."""


_before: dict[str, tuple[object, ...]] = {}
_after: dict[str, tuple[object, ...]] = {}


def prepare_workers_with(function: str) -> None:
    """Driver: let every worker that is started from now on call a function first.

    Args:
        function: ``module:function``; may be named several times, and is called once.
    """
    _before[function] = ()


def repeat_on_workers(function: str, *arguments: object) -> None:
    """Driver, in the constructor of a trainer: let its workers call a function when they have set it up.

    Args:
        function: ``module:function``; the last call that names it counts.
        *arguments: Plain values.
    """
    _after[function] = arguments


def forget_repeats() -> None:
    """Driver: another trainer is being constructed."""
    _after.clear()


def preparations() -> Preparations:
    """What was named in this process."""
    return Preparations(before=tuple(_before.items()), after=tuple(_after.items()))


def call_all(calls: tuple[Call, ...]) -> None:
    """Worker: make calls that the driver named, in its order."""
    for function, arguments in calls:
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)(*arguments)
