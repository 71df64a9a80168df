"""Which micro-batches of an optimizer step a rank takes when the number of ranks may change during a run.

A step has the micro-batches that the largest number of workers would compute: ``parts`` in each of its rounds. They
are dealt out to the ranks there are, one after the other, in as many turns as it takes. Where they do not come out
even, a rank has no micro-batch in the last turn. It computes on a stand-in that counts nothing, because every rank must
take part in every collective. Pure arithmetic.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Turn(NamedTuple):
    """One micro-batch that a rank computes."""

    round: int
    """Index of its round in the step."""
    part: int
    """Which of the micro-batches of the round it is."""
    scale: float = 1.0
    """How much more it counts in a mean over ranks and turns than on the largest number of ranks; 0 for a stand-in."""


@dataclass(frozen=True, kw_only=True)
class Dealing:
    """How the micro-batches of each step are dealt out."""

    rank: int
    world_size: int
    """Ranks there are."""
    parts: int
    """Micro-batches of a round: the largest number of ranks."""
    accumulation: int
    """Rounds of a full step; the last step of an epoch may have fewer."""

    @property
    def full_turns(self) -> int:
        """Turns of a full step."""
        return self.num_turns(self.accumulation)

    def num_turns(self, rounds: int) -> int:
        """Turns of a step of so many rounds."""
        return -(-self.parts * rounds // self.world_size)

    def turns(self, rounds: int) -> list[Turn]:
        """What this rank takes of a step of so many rounds."""
        count, num_turns = self.parts * rounds, self.num_turns(rounds)
        scale = num_turns * self.world_size / count
        mine = range(self.rank, num_turns * self.world_size, self.world_size)
        return [Turn(*divmod(one, self.parts), scale) if one < count else Turn(0, 0, 0.0) for one in mine]

    def number_in_step(self, turn: int) -> int:
        """Index in its step of the micro-batch that this rank takes in a turn of it; beyond the last for a stand-in."""
        return turn * self.world_size + self.rank

    def turns_after(self, rounds: int) -> int:
        """Turns of an epoch that cover its first rounds."""
        steps, rest = divmod(rounds, self.accumulation)
        return steps * self.full_turns + self.num_turns(rest)

    def rounds_after(self, turns: int) -> int:
        """Whole rounds of an epoch that its first turns cover."""
        steps, rest = divmod(turns, self.full_turns)
        return steps * self.accumulation + rest * self.world_size // self.parts
