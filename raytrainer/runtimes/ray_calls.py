"""Ray's calls with types: a reference knows what it refers to, and a value that comes out of it is not ``Any``.

Ray's own signatures are only partly annotated. Everything that holds a reference goes through this file.
"""

from __future__ import annotations

import contextlib
from typing import Any, Protocol, TypeVar, cast

import ray

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Ref(Protocol[T_co]):
    """A reference to a value in Ray's object store, or to the answer of a call that is under way."""

    def hex(self) -> str:
        """The reference's id."""
        ...


def put(value: T) -> Ref[T]:
    """Store a value for other processes; its large arrays go to shared memory."""
    return cast("Ref[T]", ray.put(value))


def get(reference: Ref[T], timeout_s: float | None = None) -> T:
    """Wait for a value. Arrays in it are shared memory and must not be written to.

    Raises:
        ray.exceptions.GetTimeoutError: If it is not there within ``timeout_s``.
        ray.exceptions.RayActorError: If the actor that should answer has ended.
    """
    return cast("T", ray.get(cast("Any", reference), timeout=timeout_s))


def is_ready(reference: Ref[object], timeout_s: float = 0.0) -> bool:
    """Whether a value is there, waiting for it at most ``timeout_s``."""
    ready, _ = cast(
        "tuple[list[object], list[object]]",
        ray.wait([cast("Any", reference)], timeout=timeout_s),
    )
    return bool(ready)


def kill(actor: object) -> None:
    """End an actor at once. Does nothing when the actor, or Ray, has ended."""
    if ray.is_initialized():  # otherwise ray.kill starts a Ray of its own
        with contextlib.suppress(Exception):
            ray.kill(cast("Any", actor))
