"""Orders that group samples of similar length.

``LengthGrouped`` draws a permutation for each epoch and sorts stretches of it by length. ``BalancedBatches`` splits
each global batch into micro-batches of similar cost, with more samples where they are short. Both depend on
``seed + epoch`` alone, so that every rank and every attempt has the same order in every epoch.
"""

# transformers' samplers and torch's tolist() have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler, get_length_grouped_indices

from raytrainer.data.batch_split import BatchSplit
from raytrainer.data.dealing import Turn
from raytrainer.data.draws import Place
from raytrainer.data.samplers import EpochSampler
from raytrainer.random_state import HostRandomState


class LengthGrouped(EpochSampler):
    """Samples in stretches of similar length, beginning with the longest sample.

    The first epoch has the order of ``transformers.Trainer`` in one process. There, later epochs depend on whatever
    else used the random state; here, on the seed and the epoch only.

    Args:
        lengths: Lengths of all samples.
        batch_size: Size of a global batch [samples].
        seed: The run's data seed.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        super().__init__(len(lengths), seed)
        self.lengths = list(lengths)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        generator = self.generator()
        # A DataLoader draws the seed of its processes before the order is drawn.
        torch.empty((), dtype=torch.int64).random_(generator=generator)
        yield from get_length_grouped_indices(self.lengths, self.batch_size, generator=generator)


class BalancedBatches:
    """This rank's micro-batches of an epoch, balanced by transformers' ``BatchRebalanceSampler``.

    A global batch has the usual number of samples; the number in a micro-batch depends on their lengths.

    Args:
        balancer: Has the lengths, batch sizes and rank.
        seed: The run's data seed.
    """

    def __init__(self, balancer: BatchRebalanceSampler, *, seed: int) -> None:
        self.sampler = balancer
        self.seed = seed
        self.epoch = 0
        self._skip_samples = 0

    @property
    def split(self) -> BatchSplit:
        """The split as if all micro-batches had the average number of samples."""
        given = self.sampler
        round_size = given.effective_batch_size // given.grad_accum
        return BatchSplit(batch_size=round_size // given.dp_size, rank=given.rank, world_size=given.dp_size)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def skip_next(self, num_samples: int, began: HostRandomState | None = None) -> None:
        """Begin the next iteration (and only that one) in the middle of the order.

        Args:
            num_samples: Samples of the global order to leave out.
            began: Does not count: the order follows from the seed and the epoch.
        """
        self._skip_samples = num_samples

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[int]]:
        for places in self.places():
            yield [place.index for place in places]

    def places(self) -> Iterator[list[Place]]:
        """Yield the places of the samples of each micro-batch."""
        skip, self._skip_samples = self._skip_samples, 0
        whole = self.sampler.effective_batch_size
        done, rest = divmod(skip, whole)
        batches = itertools.chain.from_iterable(self._split(*one) for one in self._global_batches(done))
        yield from itertools.islice(batches, rest // self.split.round_size, None)

    def _global_batches(self, first: int) -> Iterator[tuple[int, list[int]]]:
        """Each global batch, after the position of its first sample."""
        generator = torch.Generator()
        generator.manual_seed(self.seed + self.epoch)
        order = torch.randperm(len(self.sampler.lengths), generator=generator).tolist()
        whole = self.sampler.effective_batch_size
        least = self.sampler.dp_size * self.sampler.grad_accum
        for index in range(first, self.sampler.num_global_batches):
            batch = order[index * whole : (index + 1) * whole]
            # Every micro-batch of every rank has a sample, if necessary one from the start.
            batch += itertools.islice(itertools.cycle(order), max(0, least - len(batch)))
            yield index * whole, batch

    def _split(self, first: int, batch: list[int]) -> Iterator[list[Place]]:
        """This rank's micro-batches of one global batch."""
        given = self.sampler
        one = BatchRebalanceSampler(
            [given.lengths[index] for index in batch],
            effective_batch_size=len(batch),
            dp_size=given.dp_size,
            grad_accum=given.grad_accum,
            shuffle=False,
            rank=given.rank,
        )
        for chosen in one:
            yield [Place(batch[number], first + number, self.epoch) for number in chosen]

    def rounds(self, skip: int = 0) -> Iterator[tuple[int, Turn]]:
        """Yield the same for every round: micro-batches count equally, whatever their size (training only)."""
        return itertools.repeat((self.split.round_size, Turn(0, self.sampler.rank)))
