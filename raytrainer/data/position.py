"""Where in the data a run is, and how to open an epoch there.

The position is kept in samples of the global order, so that it means the same on any number of ranks.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from raytrainer.data.loader import RankDataLoader
from raytrainer.data.streams import RankStream
from raytrainer.errors import CheckpointError

logger = logging.getLogger(__name__)


def open_epoch(
    loader: Iterable[Any],
    *,
    epoch: int,
    skip_samples: int,
    skip_micro_batches: int,
    stream: dict[str, Any] | None = None,
) -> Iterator[Any]:
    """Return an iterator over this rank's micro-batches of an epoch, behind what was consumed already.

    Args:
        loader: Ours, or whatever the user's ``get_train_dataloader`` returned.
        epoch: Index of the epoch; decides the permutation.
        skip_samples: Samples of the global order that were consumed [samples].
        skip_micro_batches: The same on this rank [micro-batches]; used for loaders that are not ours, whose batches
            must be read to be skipped.
        stream: Where the stream stood, as ``stream_position`` gave it. Without it, what was consumed is read again.
    """
    set_epoch(loader, epoch)
    if isinstance(loader, RankDataLoader):
        if stream is not None and isinstance(loader.dataset, RankStream):
            loader.start_next_at(stream, skip_micro_batches)
        elif skip_samples:
            loader.skip_next(skip_samples)
        return iter(loader)
    batches = iter(loader)
    if skip_micro_batches:
        logger.info(
            "Reading %d batches of a custom data loader to get back to its position.", skip_micro_batches
        )
        for _ in itertools.islice(batches, skip_micro_batches):
            pass
    return batches


def set_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader, or what lies inside it, which epoch comes."""
    if callable(getattr(loader, "set_epoch", None)):
        loader.set_epoch(epoch)
        return
    for part in ("batch_sampler", "sampler"):
        inner: Any = getattr(loader, part, None)
        if callable(getattr(inner, "set_epoch", None)):
            inner.set_epoch(epoch)
            return


def stream_position(loader: Any, micro_batches: int) -> dict[str, Any] | None:
    """Where the stream of a loader stood after so many micro-batches of the epoch; None if it has none.

    Raises:
        CheckpointError: If the dataset's ``state_dict()`` does not survive JSON, in which checkpoints keep it.
    """
    if not isinstance(loader, RankDataLoader) or micro_batches == 0:
        return None
    position = loader.position_after(micro_batches)
    try:
        survives = json.loads(json.dumps(position)) == position
    except (TypeError, ValueError):
        survives = False
    if not survives:
        raise CheckpointError(
            "The training dataset's state_dict() holds something that JSON cannot keep (it takes numbers, text, lists "
            "and dicts with text as keys), so its position cannot be saved. Return plain values from state_dict()."
        )
    return position
