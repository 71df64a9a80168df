"""What is the same for all trials of a sweep, and stored once: the datasets, and what the model is made of.

Ray's object store keeps it once for each node. A trial's process and its workers read it there, the first time that a
trainer names it; trainers of later trials find it in the process.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Generator
from typing import Any

from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.tune.travel import receive_in_trial, ship_to_trials
from raytrainer.wire import shared_objects
from raytrainer.wire.shared_objects import StoredObject
from raytrainer.wire.spec import Shipped

_SHARED = ("train_dataset", "eval_dataset", "model_init")


@contextlib.contextmanager
def shared_data(trainer: Any) -> Generator[None]:
    """Inside the block, a trainer is shipped without its datasets and ``model_init``, which are stored for all trials.

    Args:
        trainer: The sweep's.

    Raises:
        ConfigurationError: If one of them cannot be shipped.
    """
    names: list[str] = []
    try:
        for attribute in _SHARED:
            value = getattr(trainer, attribute, None)
            if value is None or shared_objects.where_is(value) is not None:
                continue
            reference = ray_calls.put(ship_to_trials(value, f"trainer.{attribute}"))
            stored = StoredObject(f"{attribute}-{uuid.uuid4().hex}", _fetch, reference)
            shared_objects.register(value, stored)
            names.append(stored.name)
        yield
    finally:
        shared_objects.forget(names)


def _fetch(reference: Ref[Shipped]) -> object:
    return receive_in_trial(ray_calls.get(reference))
