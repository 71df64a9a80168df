"""Ships a trainer to its workers, and names the attribute at fault when it cannot be shipped."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.wire.module_sources import loaded_sources, place_sources
from raytrainer.wire.pickling import Shipped, pack, unpack
from raytrainer.wire.search_path import extend_search_path
from raytrainer.wire.unpicklable import find_unpicklable

__all__ = ["Shipped", "receive", "receive_on_worker", "ship", "with_sources"]

receive = unpack


def with_sources(shipped: Shipped) -> Shipped:
    """Send the files of modules along, to machines that may not have them."""
    return dataclasses.replace(shipped, sources=loaded_sources())


def receive_on_worker(shipped: Shipped, directory: str) -> Any:
    """Rebuild an object that the driver sent. From then on this process finds the modules that the driver finds.

    Args:
        shipped: The object in transport form.
        directory: Where copies of the driver's modules go, if this machine does not have them.
    """
    find_modules_of(shipped, directory)
    return unpack(shipped)


def find_modules_of(shipped: Shipped, directory: str) -> None:
    """Let this process find the modules that the driver finds.

    Args:
        shipped: What the driver sent.
        directory: Where copies of the driver's modules go, if this machine does not have them.
    """
    copies = place_sources(shipped.sources, directory) if shipped.sources is not None else {}
    extend_search_path(shipped.search_path, copies)


def ship(value: object, name: str = "trainer", known: Mapping[int, str] | None = None) -> Shipped:
    """Bring an object into transport form.

    Args:
        value: What to ship. Its ``__getstate__`` leaves out what belongs to one process.
        name: What the object is called in messages.
        known: ``id()`` of each object that the workers have already -> its name.

    Returns:
        The object, ready to be put into Ray's object store.

    Raises:
        ConfigurationError: If a part of it cannot be pickled; names the part and its type.
    """
    try:
        return pack(value, known)
    except Exception as error:
        path, culprit, reason = find_unpicklable(name, value, error)
        what = f"{path} ({type(culprit).__module__}.{type(culprit).__qualname__})"
        raise ConfigurationError(
            f"{what} cannot be sent to the workers: {type(reason).__name__}: {str(reason).splitlines()[0][:300]}. "
            "Workers are other processes, so everything in the trainer must be picklable: leave it out, make it where "
            "it is used (for instance in model_init= or in a callback's on_train_begin), or drop it in __getstate__."
        ) from error
