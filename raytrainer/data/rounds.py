"""How the samples are cut into rounds and micro-batches, and whose these are.

A round is the samples that all ranks together take with one micro-batch each. The last round of the data may be short
of samples. Then some ranks' micro-batches are, or, where nothing fills them up, one has no sample of its own at all and
computes on a stand-in that counts nothing, because every rank takes part in every collective. Pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How samples become the micro-batches of a rank."""

    batch_size: int
    """Samples of a full micro-batch on one rank."""
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    """Drop a last round that is short of samples."""
    fills_up: bool = True
    """Fill it up with samples of the start; one rank alone takes a short micro-batch in any case."""
    takes_rounds: bool = False
    """This rank takes what all ranks take, one after the other, and hands it out."""

    @property
    def round_size(self) -> int:
        """Samples of a round."""
        return self.batch_size * self.world_size

    @property
    def taken_size(self) -> int:
        """Samples of a round that this rank takes."""
        return self.round_size if self.takes_rounds else self.batch_size

    @property
    def has_fill_ups(self) -> bool:
        """Whether a round may have samples that were there before."""
        return self.fills_up and not self.drop_last and self.world_size > 1

    def taken_of(self, samples: list[Any]) -> list[Any]:
        """What this rank takes of a round."""
        return samples if self.takes_rounds else self.part_of(samples, self.rank)

    def part_of(self, samples: list[Any], rank: int) -> list[Any]:
        """A rank's samples of a round; the first of the round as a stand-in where it has none."""
        first = rank * self.batch_size
        return samples[first : first + self.batch_size] or samples[:1]

    def share_of(self, num_round: int, rank: int) -> Share:
        """A rank's share of a round with so many real samples, which come first."""
        return Share(max(0, min(self.batch_size, num_round - rank * self.batch_size)), num_round)


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
