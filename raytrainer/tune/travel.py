"""How a trainer, or a part of it, gets to the trials of a sweep: with the files of modules that are missing there."""

from __future__ import annotations

from typing import Any

from raytrainer.driver.cluster import connect
from raytrainer.wire.spec import Shipped, receive_on_worker, ship, with_sources
from raytrainer.worker.session_directory import directory_for_copies


def ship_to_trials(value: object, name: str = "trainer") -> Shipped:
    """Bring an object into transport form for the trials on this process' Ray.

    Args:
        value: What to ship.
        name: What it is called in messages.

    Raises:
        ConfigurationError: If a part of it cannot be pickled.
    """
    shipped = ship(value, name)
    return shipped if connect().is_private else with_sources(shipped)


def receive_in_trial(shipped: Shipped) -> Any:
    """Rebuild an object in the process of a trial, or of one of its workers."""
    return receive_on_worker(shipped, directory_for_copies())
