"""The position of a run in its data, and how to open an epoch there.

The position is counted in samples of the global order, so that it means the same on any number of ranks.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Iterable, Iterator
from typing import Any

from torch.utils.data import DataLoader

from raytrainer.data.loader import RankDataLoader
from raytrainer.data.micro_batches import MicroBatches
from raytrainer.data.own_generators import OwnGenerators
from raytrainer.data.streams import RankStream
from raytrainer.errors import CheckpointError
from raytrainer.random_state import HostRandomState, drawing_from

logger = logging.getLogger(__name__)


def open_epoch(
    loader: Iterable[Any],
    *,
    epoch: int,
    skip_samples: int,
    skip_micro_batches: int,
    num_wanted: int,
    stream: dict[str, Any] | None = None,
    began: HostRandomState | None = None,
) -> Iterator[Any]:
    """Return an iterator over this rank's micro-batches of an epoch, after what was already consumed.

    Args:
        loader: A ``RankDataLoader``, or what the user's ``get_train_dataloader`` returned.
        epoch: Index of the epoch; decides the permutation.
        skip_samples: Samples of the global order that were consumed [samples].
        skip_micro_batches: The same on this rank [micro-batches]; used for users' loaders, whose batches must be
            read to be skipped.
        num_wanted: Micro-batches that the run can still take; no more are read from a stream.
        stream: The result of ``stream_position``. Without it, what was consumed is read again.
        began: The random state of this process with which the epoch began, if some of it was consumed and it is known.
            What draws the order of an epoch, or reads what was consumed again, draws from it.
    """
    set_epoch(loader, epoch)
    if isinstance(loader, RankDataLoader):
        if stream is not None and isinstance(loader.dataset, RankStream):
            loader.start_next_at(stream, skip_micro_batches, began)
        elif skip_samples:
            loader.skip_next(skip_samples, began)
        found = iter(loader)
        if isinstance(loader.dataset, RankStream) and isinstance(found, MicroBatches):
            found.want(num_wanted)
        return found
    if not skip_micro_batches:
        return iter(loader)
    logger.info("Reading %d batches of a custom data loader to return to its position.", skip_micro_batches)
    with drawing_from(began, own_generators(loader)):
        batches = iter(loader)
        for _ in itertools.islice(batches, skip_micro_batches):
            pass
    return batches


def own_generators(loader: Any) -> OwnGenerators:
    """The user's generators that a pass over a loader may draw from."""
    if isinstance(loader, RankDataLoader):
        return loader.own
    dataset, collate = getattr(loader, "dataset", None), getattr(loader, "collate_fn", None)
    return OwnGenerators(
        loader=loader, dataset=dataset, collator=collate, sampler=getattr(loader, "sampler", None)
    )


def set_epoch(loader: Any, epoch: int) -> None:
    """Set the next epoch of a loader, or of the sampler inside it."""
    if callable(getattr(loader, "set_epoch", None)):
        loader.set_epoch(epoch)
        return
    for part in ("batch_sampler", "sampler"):
        inner: Any = getattr(loader, part, None)
        if callable(getattr(inner, "set_epoch", None)):
            inner.set_epoch(epoch)
            return


def stream_position(loader: DataLoader[Any], micro_batches: int) -> dict[str, Any] | None:
    """Return the position of a loader's stream after a number of micro-batches of the epoch; None without a stream.

    Raises:
        CheckpointError: If the dataset's ``state_dict()`` cannot be saved as JSON, the format of checkpoints.
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
            "The training dataset's state_dict() contains something that JSON cannot represent (only numbers, text, "
            "lists and dicts with text keys), so its position cannot be saved. Return plain values from state_dict()."
        )
    return position
