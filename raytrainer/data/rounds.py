"""A round: the samples that all ranks together take with one micro-batch each, and whose they are.

Pure arithmetic. The last round of the data may be short of samples. Then some ranks' micro-batches are, or, where
nothing fills them up, one has no sample of its own at all and computes on a stand-in that counts nothing, because
every rank takes part in every collective.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Share(NamedTuple):
    """What a micro-batch counts in its round."""

    num_real: int
    """Its samples that are no fill-up and no stand-in."""
    num_round: int
    """The same over all ranks."""

    def weight(self, world_size: int) -> float:
        """What the mean over the micro-batch counts in a mean over ranks, so that every sample counts the same."""
        return self.num_real * world_size / self.num_round if self.num_round else 0.0


def share_of(num_round: int, *, rank: int, batch_size: int) -> Share:
    """A rank's share of a round with so many real samples, which come first."""
    return Share(max(0, min(batch_size, num_round - rank * batch_size)), num_round)


def part_of(samples: list[Any], *, rank: int, batch_size: int) -> list[Any]:
    """A rank's samples of a round; the first of the round as a stand-in where it has none."""
    first = rank * batch_size
    return samples[first : first + batch_size] or samples[:1]


def weights_of(loader: Any, count: int) -> list[float]:
    """What the micro-batches that a loader yielded last count in a mean over ranks.

    Args:
        loader: One that knows it; others' micro-batches count 1.
        count: Micro-batches.
    """
    known = loader.weights(count) if hasattr(loader, "weights") else []
    return [1.0] * (count - len(known)) + known


def without_stand_ins(loader: Any, batches: list[Any]) -> list[Any]:
    """Those of the micro-batches that a loader yielded last which have samples of their own."""
    weights = weights_of(loader, len(batches))
    return [batch for batch, weight in zip(batches, weights, strict=True) if weight > 0]
