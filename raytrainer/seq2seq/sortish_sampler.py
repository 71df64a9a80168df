"""The order of samples in which batches hold samples of about the same length, so that little is padding.

Pure index arithmetic on lengths: one order per epoch, drawn from ``seed + epoch`` alone, the same on every rank.
"""

# torch's split() and tolist() have no types.
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from raytrainer.data.samplers import EpochSampler

POOL_BATCHES = 50
"""Batches whose samples are sorted together: more of them pad less and mix less."""


class SortishSampler(EpochSampler):
    """Random pools of samples, sorted by length within a pool and cut into batches, the batches in random order.

    The batch with the longest sample comes first, so that a run that lacks memory fails in its first step. The
    scheme is that of fastai's and transformers' sampler of this name.

    Args:
        lengths: Of every sample [tokens].
        batch_size: Samples of one optimizer step over all ranks: then the order does not depend on their number.
        seed: The run's data seed.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int) -> None:
        super().__init__(len(lengths), seed)
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size

    def __iter__(self) -> Iterator[int]:
        generator = self.generator()
        order = torch.randperm(len(self), generator=generator)
        pools = order.split(self.batch_size * POOL_BATCHES)
        by_length = [pool[self.lengths[pool].argsort(descending=True, stable=True)] for pool in pools]
        batches = list(torch.cat(by_length).split(self.batch_size))
        # One that is not full comes last, else all batches after it would be cut elsewhere.
        short = batches.pop() if len(batches[-1]) < self.batch_size else order[:0]
        if batches:
            longest = max(range(len(batches)), key=lambda index: int(self.lengths[batches[index]].max()))
            yield from batches.pop(longest).tolist()
        for index in torch.randperm(len(batches), generator=generator).tolist():
            yield from batches[index].tolist()
        yield from short.tolist()
