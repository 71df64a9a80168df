"""Where in the data a run is, and how to open an epoch there.

The position is kept in samples of the global order, so that it means the same on any number of ranks.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from raytrainer.data.loader import RankDataLoader

logger = logging.getLogger(__name__)


def open_epoch(
    loader: Iterable[Any], *, epoch: int, skip_samples: int, skip_micro_batches: int
) -> Iterator[Any]:
    """Return an iterator over this rank's micro-batches of an epoch, behind what was consumed already.

    Args:
        loader: Ours, or whatever the user's ``get_train_dataloader`` returned.
        epoch: Index of the epoch; decides the permutation.
        skip_samples: Samples of the global order that were consumed [samples].
        skip_micro_batches: The same on this rank [micro-batches]; used for loaders that are not ours, whose batches
            must be read to be skipped.
    """
    set_epoch(loader, epoch)
    if isinstance(loader, RankDataLoader):
        if skip_samples:
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
