"""Which loaders of users are known to give each rank its own samples.

A plain loader of torch from an overridden ``get_train_dataloader`` gives every rank the same samples, as in
``transformers``, where code divides it with ``accelerator.prepare``. Whether a dataset or a sampler of the user's own
depends on the rank cannot be seen, so such a loader is left as it is, and the user is told.
"""

from __future__ import annotations

from typing import Any

from raytrainer.data.loader import RankDataLoader

_OF_RANKS = ("num_replicas", "num_processes", "world_size")
"""Attributes of samplers that take a rank's part: torch's, accelerate's, and those that are written after them."""


def is_evened(loader: Any) -> bool:
    """Whether a loader is known to give each rank the same number of batches: the trainer's own, or accelerate's."""
    return isinstance(loader, RankDataLoader) or hasattr(loader, "end_of_dataloader")


def is_divided(loader: Any) -> bool:
    """Whether a loader is known to give each rank its own samples."""
    if is_evened(loader):
        return True
    batches: Any = getattr(loader, "batch_sampler", None)
    samplers = (getattr(loader, "sampler", None), batches, getattr(batches, "sampler", None))
    if any(hasattr(sampler, name) for sampler in samplers for name in _OF_RANKS):
        return True
    # datasets.distributed.split_dataset_by_node
    return getattr(getattr(loader, "dataset", None), "_distributed", None) is not None


def describe_undivided(loader: Any, world_size: int) -> str:
    """What a user should know about a loader that is not divided.

    Args:
        loader: What ``get_train_dataloader`` returned.
        world_size: Number of ranks.
    """
    return (
        f"get_train_dataloader returned a {type(loader).__name__} that is not divided over the {world_size} workers: "
        "unless its dataset or sampler depends on the rank, each worker trains on all of its samples. To divide it, "
        "return self.accelerator.prepare(loader), or give the Trainer the dataset and the data_collator and leave the "
        "loader to it."
    )
