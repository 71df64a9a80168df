"""What a worker does before it unpacks anything that the driver sends.

Unpacking imports the modules of the user's classes, and what these find must be what the driver found. Functions are
named, not sent, because what they do is a condition of receiving anything.
"""

from __future__ import annotations

import importlib

_preparations: dict[str, None] = {}


def prepare_workers_with(function: str) -> None:
    """Driver: let every worker that is started from now on call a function first.

    Args:
        function: ``module:function``, without arguments; may be named several times, and is called once.
    """
    _preparations[function] = None


def preparations() -> tuple[str, ...]:
    """The functions that were named in this process, in that order."""
    return tuple(_preparations)


def prepare(functions: tuple[str, ...]) -> None:
    """Worker: call the functions that the driver named."""
    for function in functions:
        module, _, name = function.partition(":")
        getattr(importlib.import_module(module), name)()
