"""Which samples of a dataset a micro-batch holds, found out afterwards.

The order of an epoch is a function of the seed and the epoch, so nothing is kept while training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch.utils.data import DataLoader, SequentialSampler

from raytrainer.data.samplers import RankBatchSampler
from raytrainer.data.streams import RankStream

_MAX_IDS = 64
_MAX_LATE = 32
"""How many micro-batches a loop that never waits may be ahead of its GPU, which holds about a thousand kernels."""


def sample_ids(loader: DataLoader[Any], micro_batch: int, *, as_read: bool = False) -> list[int] | None:
    """Positions in the dataset of the samples of one of this rank's micro-batches.

    Args:
        loader: The data; the epoch is the one that it was set to.
        micro_batch: Index in the epoch.
        as_read: Those that were read together: the ones of all ranks, where this rank reads for all.

    Returns:
        None where the order cannot be told without drawing it again: streams that several processes read, loaders and
        samplers of the user.
    """
    if isinstance(getattr(loader, "dataset", None), RankStream):
        return _of_stream(loader, micro_batch, as_read=as_read)
    batches = getattr(loader, "batch_sampler", None)
    if not isinstance(batches, RankBatchSampler):
        return None
    is_repeatable = isinstance(batches.sampler, SequentialSampler) or hasattr(batches.sampler, "set_epoch")
    if not is_repeatable:
        return None
    found = batches.turn_at(micro_batch)
    if found is None:
        return []
    start, turn = found
    order, split = list(batches.sampler), batches.split
    if not as_read and (turn.scale == 0 or start + turn.part * split.batch_size >= batches.num_samples()):
        return []  # Nothing for a stand-in, which counts nothing.
    positions = batches.positions(start, turn)
    if not as_read and split.takes_rounds:
        positions = split.part_of(positions, turn.part)
    return [order[position % len(order)] for position in positions]


def read_again(loader: DataLoader[Any], micro_batch: int) -> Any:
    """Read and collate a micro-batch once more, on the CPU; None where its samples are not known, or of a stream."""
    ids = sample_ids(loader, micro_batch)
    dataset: Any = getattr(loader, "dataset", None)
    if not ids or isinstance(dataset, RankStream) or getattr(loader, "is_dispatched", False):
        return None
    collate = cast("Callable[[list[Any]], Any]", loader.collate_fn)
    return collate([dataset[index] for index in ids])


def read_back(loader: DataLoader[Any], micro_batch: int) -> Iterator[tuple[str, Any]]:
    """Read a micro-batch once more, and those before it in its epoch: a GPU reports an error some kernels later.

    Args:
        loader: The data.
        micro_batch: Index in the epoch of the newest one.

    Yields:
        What to say before its fault, empty for the newest, and the batch; None where it cannot be read again.
    """
    for index in range(micro_batch, max(-1, micro_batch - _MAX_LATE), -1):
        batch = read_again(loader, index)
        if batch is None:
            return
        late = f"the GPU told late of micro-batch {index} of the epoch. {describe_samples(loader, index)} There, "
        yield "" if index == micro_batch else late, batch


def _of_stream(loader: DataLoader[Any], micro_batch: int, *, as_read: bool) -> list[int] | None:
    if loader.num_workers > 1:
        return None  # Each process reads a part of its own.
    split = cast("RankStream", loader.dataset).split
    step, number = divmod(micro_batch, len(split.turns(split.step_rounds)))
    turn = split.turns(split.step_rounds)[number]
    start = (step * split.step_rounds + turn.round) * split.round_size
    if as_read and split.takes_rounds:
        return list(range(start, start + split.round_size))
    start += turn.part * split.batch_size
    return list(range(start, start + split.batch_size))


def describe_samples(loader: DataLoader[Any], micro_batch: int, *, as_read: bool = False) -> str:
    """A sentence about the samples of a micro-batch.

    Args:
        loader: The data.
        micro_batch: Index in the epoch.
        as_read: Those that were read together.
    """
    ids = sample_ids(loader, micro_batch, as_read=as_read)
    if ids is None:
        return f"It is micro-batch {micro_batch} of this pass over the data."
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    return f"Its samples in the data: {', '.join(map(str, ids[:_MAX_IDS]))}{more}."
