"""Which samples of a dataset a micro-batch holds, found out afterwards.

The order of an epoch is a function of the seed and the epoch, so nothing is kept while training.
"""

from __future__ import annotations

from typing import Any

from torch.utils.data import DataLoader, SequentialSampler

from raytrainer.data.samplers import RankBatchSampler


def sample_ids(loader: DataLoader[Any], micro_batch: int) -> list[int] | None:
    """Positions in the dataset of the samples of one of this rank's micro-batches.

    Args:
        loader: Of the training data; the epoch is the one that it was set to.
        micro_batch: Index in the epoch.

    Returns:
        None where the order cannot be told without drawing it again: streams, loaders and samplers of the user.
    """
    batches = getattr(loader, "batch_sampler", None)
    if not isinstance(batches, RankBatchSampler):
        return None
    is_repeatable = isinstance(batches.sampler, SequentialSampler) or hasattr(batches.sampler, "set_epoch")
    if not is_repeatable:
        return None
    order = list(batches.sampler)
    split = batches.split
    start = micro_batch * split.round_size + split.rank * split.batch_size
    stop = min(start + split.batch_size, batches.num_samples())
    # Nothing for a stand-in, which counts nothing.
    return [order[index % len(order)] for index in range(start, stop)]
