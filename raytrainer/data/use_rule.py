"""Which samples an epoch is to use, as far as that can be known before it is drawn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

from torch.utils.data import RandomSampler, SequentialSampler
from transformers.trainer_utils import has_length

from raytrainer.data.length_samplers import BalancedBatches
from raytrainer.data.loader import RankDataLoader
from raytrainer.data.samplers import EpochSampler, RankBatchSampler
from raytrainer.data.streams import RankStream


@dataclass(frozen=True, kw_only=True)
class UseRule:
    """What an epoch uses."""

    total: int | None = None
    """Samples of the data, of which each is used once; None where only what was read can be compared."""
    num_left_out: int = 0
    """Of these, those that an epoch leaves out (``dataloader_drop_last``)."""
    unknown: str = ""
    """Why nothing can be checked, in words; empty if something can."""
    is_partial: str = ""
    """What cannot be checked beside what can, in words."""


def rule_of(loader: Any) -> UseRule:
    """The rule of what a run trains on."""
    if not isinstance(loader, RankDataLoader):
        return UseRule(unknown=f"get_train_dataloader returned a {type(loader).__name__} of its own")
    if isinstance(loader.dataset, RankStream):
        return _of_stream(loader, loader.dataset)
    batches = cast("object", loader.batch_sampler)
    if isinstance(batches, BalancedBatches):
        given = batches.sampler
        total = len(given.lengths)
        return UseRule(
            total=total, num_left_out=max(0, total - given.num_global_batches * given.effective_batch_size)
        )
    assert isinstance(batches, RankBatchSampler)
    if not _uses_each_once(batches.sampler):
        return UseRule(unknown=f"its {type(batches.sampler).__name__} decides how often a sample is used")
    total = len(batches.sampler)  # pyright: ignore[reportArgumentType]
    return UseRule(total=total, num_left_out=max(0, total - batches.num_samples()))


def _uses_each_once(sampler: Any) -> bool:
    if isinstance(sampler, RandomSampler):
        return not sampler.replacement and sampler.num_samples == len(sampler.data_source)
    return isinstance(sampler, EpochSampler | SequentialSampler)


def _of_stream(loader: RankDataLoader, stream: RankStream) -> UseRule:
    if loader.num_workers > 1:
        return UseRule(
            is_partial="what each of the loading processes read was used; not whether they read all data"
        )
    if has_length(stream.dataset):
        total = len(stream.dataset)
        left_out = total % stream.split.round_size if stream.split.drop_last else 0
        return UseRule(total=total, num_left_out=left_out)
    return UseRule(
        is_partial="what was read of the stream was used; not whether the stream gave all of its data"
    )


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What is wrong with the samples of an epoch."""

    unused: list[Any]
    """Indices that were never used, beyond those that are left out."""
    repeated: list[Any]
    """Indices that were used more than once, other than to fill up the last round."""
    num_unused: int
    num_left_out: int
    """How many were to be left out."""

    def __bool__(self) -> bool:
        return bool(self.repeated) or self.num_unused != self.num_left_out


def faults_of(samples: Iterable[Any], rule: UseRule) -> Faults:
    """Compare the samples of an epoch, without fill-ups, with the rule."""
    counts = Counter(samples)
    expected = range(rule.total) if rule.total is not None else _all_before(counts)
    unused = [index for index in expected if index not in counts]
    repeated = [index for index, number in counts.items() if number > 1]
    return Faults(unused=unused, repeated=repeated, num_unused=len(unused), num_left_out=rule.num_left_out)


def _all_before(indices: Iterable[Any]) -> list[Any]:
    """All positions before the last one of a stream that was read; of each process, where several read it."""
    ends: dict[str, int] = {}
    for index in indices:
        process, _, position = str(index).rpartition(":")
        ends[process] = max(ends.get(process, 0), int(position) + 1)
    return [
        f"{process}:{position}" if process else position
        for process, end in ends.items()
        for position in range(end)
    ]
