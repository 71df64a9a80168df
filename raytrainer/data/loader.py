"""The data loader of one rank: torch's own, with a start position and batches on the rank's device.

Besides batches it answers two questions that the loop and the evaluation have: begin this epoch after so many
samples, and how many samples of this micro-batch are no fill-up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, RandomSampler, Sampler, SequentialSampler
from transformers.trainer_utils import seed_worker

from raytrainer.config.arguments import TrainingArguments
from raytrainer.data.iterable import CollateReal, RankStream
from raytrainer.data.samplers import RankBatchSampler, SeededRandomSampler


def to_device(data: Any, device: torch.device, *, non_blocking: bool = False) -> Any:
    """Move the tensors of a nested batch; containers and other values stay what they are."""
    if isinstance(data, torch.Tensor):
        return data.to(device, non_blocking=non_blocking)
    if isinstance(data, Mapping):
        moved = {key: to_device(value, device, non_blocking=non_blocking) for key, value in data.items()}
        return type(data)(moved)  # type: ignore[call-arg]
    if isinstance(data, tuple) and hasattr(data, "_fields"):
        return type(data)(*(to_device(value, device, non_blocking=non_blocking) for value in data))
    if isinstance(data, tuple | list):
        return type(data)(to_device(value, device, non_blocking=non_blocking) for value in data)
    return data


class RankDataLoader(DataLoader[Any]):
    """A ``DataLoader`` that yields this rank's micro-batches on this rank's device."""

    def __init__(self, *args: Any, device: torch.device, world_size: int, rank: int, **kwargs: Any) -> None:
        self._device = device
        self._rank = rank
        self._world_size = world_size
        self._non_blocking = bool(kwargs.get("pin_memory")) and device.type != "cpu"
        self._last_real: int | None = None
        self._yielded = 0
        super().__init__(*args, **kwargs)

    def set_epoch(self, epoch: int) -> None:
        self._shard().set_epoch(epoch)

    def skip_next(self, num_samples: int) -> None:
        """Begin the next iteration after ``num_samples`` samples of the global order."""
        self._shard().skip_next(num_samples)

    def _shard(self) -> RankBatchSampler | RankStream:
        if isinstance(self.dataset, RankStream):
            return self.dataset
        assert isinstance(self.batch_sampler, RankBatchSampler)
        return self.batch_sampler

    def num_real(self) -> int:
        """Samples of the micro-batch that was yielded last which are no fill-up."""
        if self._last_real is not None:
            return self._last_real
        shard = self._shard()
        assert isinstance(shard, RankBatchSampler)
        return shard.num_real(self._yielded - 1, self._rank)

    def __iter__(self) -> Iterator[Any]:
        self._yielded = 0
        batches = super().__iter__()
        if isinstance(self.dataset, RankStream):
            batches = self._unwrap(batches)
        return self._on_device(batches)

    def _unwrap(self, batches: Iterator[Any]) -> Iterator[Any]:
        for self._last_real, batch in batches:
            yield batch

    def _on_device(self, batches: Iterator[Any]) -> Iterator[Any]:
        for batch in batches:
            self._yielded += 1
            if self._device.type == "cpu":
                yield batch
            else:
                yield to_device(batch, self._device, non_blocking=self._non_blocking)


def build_loader(
    dataset: Dataset[Any],
    *,
    args: TrainingArguments,
    collate: Callable[[list[Any]], Any],
    batch_size: int,
    sampler: Sampler[int] | None,
    training: bool,
) -> RankDataLoader:
    """Build this rank's loader.

    Args:
        dataset: Map-style or iterable.
        args: Resolved (on a worker) or not (on a driver, which then is rank 0 of 1).
        collate: Makes a batch of a list of samples.
        batch_size: Samples of a micro-batch on one rank.
        sampler: Order of a map-style dataset; None is its own order. A plain ``RandomSampler`` becomes a seeded one,
            because ranks must agree on the order.
        training: Seeds the loader's worker processes per rank.
    """
    bound = args.is_resolved
    rank, world_size = (args.process_index, args.world_size) if bound else (0, 1)
    options: dict[str, Any] = {
        "num_workers": args.dataloader_num_workers,
        "pin_memory": args.dataloader_pin_memory and args.device.type != "cpu",
        "persistent_workers": args.dataloader_persistent_workers,
        "multiprocessing_context": args.dataloader_multiprocessing_context,
        "prefetch_factor": args.dataloader_prefetch_factor,
        "in_order": args.dataloader_in_order,
        "device": args.device,
        "rank": rank,
        "world_size": world_size,
    }
    if isinstance(dataset, IterableDataset):
        stream = RankStream(
            dataset,
            batch_size=batch_size,
            drop_last=args.dataloader_drop_last,
            rank=rank,
            world_size=world_size,
        )
        return RankDataLoader(stream, batch_size=batch_size, collate_fn=CollateReal(collate), **options)
    if training:
        options["worker_init_fn"] = partial(seed_worker, num_workers=args.dataloader_num_workers, rank=rank)
    batches = RankBatchSampler(
        seeded(sampler, dataset, args),
        batch_size=batch_size,
        drop_last=args.dataloader_drop_last,
        rank=rank,
        world_size=world_size,
    )
    return RankDataLoader(dataset, batch_sampler=batches, collate_fn=collate, **options)


def seeded(sampler: Sampler[int] | None, dataset: Dataset[Any], args: TrainingArguments) -> Sampler[int]:
    """Return a sampler whose order all ranks share."""
    if sampler is None:
        return SequentialSampler(dataset)  # type: ignore[arg-type]
    if type(sampler) is RandomSampler and not sampler.replacement and sampler._num_samples is None:
        return SeededRandomSampler(sampler.data_source, data_seed(args))
    return sampler


def data_seed(args: TrainingArguments) -> int:
    """The seed that decides the order of the samples."""
    return args.data_seed if args.data_seed is not None else args.seed
