"""How samples are split into rounds and micro-batches, and which rank gets which.

A round is the set of samples that all ranks together take with one micro-batch each. The last round of the data may be
short. Then the micro-batches of some ranks are short too, or, where nothing fills them up, a rank has no sample of its
own and computes on a stand-in that counts nothing, because every rank must take part in every collective. Where the
number of ranks may change (``dealing``), rounds are those of the largest number. Pure arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch.utils.data import DataLoader

from raytrainer.data.dealing import Dealing, Turn


class Share(NamedTuple):
    """How much a micro-batch counts in its round."""

    num_real: int
    """Its samples that are neither fill-ups nor stand-ins."""
    num_round: int
    """The same over all ranks."""
    scale: float = 1.0
    """That of its turn (``dealing``); 0 for a stand-in of a rank that has no micro-batch in it."""

    def weight(self, world_size: int) -> float:
        """Weight of the micro-batch's mean in a mean over ranks, such that every sample counts the same."""
        return self.num_real * world_size / self.num_round if self.num_round else 0.0


@dataclass(frozen=True, kw_only=True)
class BatchSplit:
    """How samples become the micro-batches of a rank."""

    batch_size: int
    """Samples of a full micro-batch on one rank."""
    rank: int = 0
    world_size: int = 1
    drop_last: bool = False
    """Drop a short last round."""
    fills_up: bool = True
    """Fill it up with samples from the start; with one rank the last micro-batch stays short in any case."""
    takes_rounds: bool = False
    """This rank reads the samples of all ranks and dispatches them."""
    dealing: Dealing | None = None
    """Which micro-batches this rank takes where the number of ranks may change; ``world_size`` is the largest one."""

    @property
    def round_size(self) -> int:
        """Samples of a round."""
        return self.batch_size * self.world_size

    @property
    def step_rounds(self) -> int:
        """Rounds that are dealt out together."""
        return 1 if self.dealing is None else self.dealing.accumulation

    @property
    def taken_size(self) -> int:
        """Samples of a round that this rank takes."""
        return self.round_size if self.takes_rounds else self.batch_size

    @property
    def has_fill_ups(self) -> bool:
        """Whether a round may repeat samples of an earlier round."""
        return self.fills_up and not self.drop_last and self.world_size > 1

    def part_of(self, samples: Sequence[Any], rank: int) -> Sequence[Any]:
        """A rank's samples of a round; if it has none, the first sample of the round as a stand-in."""
        first = rank * self.batch_size
        return samples[first : first + self.batch_size] or samples[:1]

    def turns(self, rounds: int) -> list[Turn]:
        """What this rank takes of rounds that are dealt out together."""
        return [Turn(0, self.rank)] if self.dealing is None else self.dealing.turns(rounds)

    def num_turns(self, samples: int) -> int:
        """Micro-batches of this rank that cover the first samples of an epoch."""
        rounds = -(-samples // self.round_size)
        return rounds if self.dealing is None else self.dealing.turns_after(rounds)

    def share_of_turn(self, num_round: int, turn: Turn) -> Share:
        """The share of this rank in a round with so many real samples, in one of its turns."""
        if not turn.scale:
            return Share(0, num_round, 0.0)
        return Share(self.share_of(num_round, turn.part).num_real, num_round, turn.scale)

    def weight_of(self, share: Share) -> float:
        """Weight of a micro-batch's mean in a mean over ranks; fill-ups count as samples."""
        return share.scale * (1.0 if self.fills_up else share.weight(self.world_size))

    def share_of(self, num_round: int, rank: int) -> Share:
        """A rank's share of a round with so many real samples, which come first."""
        return Share(max(0, min(self.batch_size, num_round - rank * self.batch_size)), num_round)


def weights_of(loader: Any, count: int) -> list[float]:
    """Weights, in a mean over ranks, of the micro-batches that a loader yielded last.

    Args:
        loader: One of ours; the micro-batches of other loaders weigh 1.
        count: Number of micro-batches.
    """
    weights = getattr(loader, "weights", None)
    known: list[float] = weights(count) if weights is not None else []
    return known if len(known) == count else [1.0] * (count - len(known)) + known


def without_stand_ins(loader: DataLoader[Any], batches: list[Any]) -> list[Any]:
    """The micro-batches, of those that a loader yielded last, that hold real samples."""
    weights = weights_of(loader, len(batches))
    if all(weights):
        return batches
    return [batch for batch, weight in zip(batches, weights, strict=True) if weight > 0]
