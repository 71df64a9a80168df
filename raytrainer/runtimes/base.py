"""What the loop may know about where it runs.

Three runtimes implement this protocol: one process, a process group started by ``torchrun``, and a Ray worker.
The loop, the checkpoint commit and the evaluation see nothing else of the world, so that all of them run and are
tested without Ray. This file never imports torch or ray.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import Protocol, TypeVar

T = TypeVar("T")


class Command(enum.IntEnum):
    """What the driver asks of a running loop. Ordered by urgency: ranks agree on the maximum."""

    NONE = 0
    MOVE = 1
    """Save a checkpoint at the next step boundary, then go on from it in workers that are started anew, elsewhere."""
    STOP_AFTER_SAVE = 2
    """Save a checkpoint at the next step boundary, then end training normally."""
    STOP = 3
    """End training at the next step boundary, without saving."""


class WorkersMove(BaseException):
    """Raised on all ranks when they have saved because of ``Command.MOVE``: the workers leave, and nothing failed.

    Not an ``Exception``, so that nothing on the way treats it as a failure.
    """


class Runtime(Protocol):
    """One rank's view of its run."""

    rank: int
    """Index of this worker in ``[0, world_size)``."""
    local_rank: int
    """Index of this worker on its node."""
    world_size: int
    """Number of workers."""
    local_world_size: int
    """Number of workers on this node."""
    attempt: int
    """0 for the first start of the workers, one more for each restart after a failure."""
    run_id: str
    """Names one ``train()`` call over all of its attempts."""

    def barrier(self) -> None:
        """All ranks: wait for each other."""
        ...

    def broadcast(self, value: T) -> T:
        """All ranks: return rank 0's ``value`` (any picklable object)."""
        ...

    def gather(self, value: T) -> list[T] | None:
        """All ranks: the values of all ranks in rank order on rank 0, None elsewhere."""
        ...

    def scatter(self, values: Sequence[T] | None) -> T:
        """All ranks: return this rank's element of what rank 0 passes, one for each rank; others pass None."""
        ...

    def agree(self, flags: Sequence[int]) -> list[int]:
        """All ranks: the element-wise maximum of small non-negative ints over ranks. Cheap."""
        ...

    def add_up(self, numbers: Sequence[int]) -> list[int]:
        """All ranks: the element-wise sum of non-negative ints over ranks. Cheap; called every step."""
        ...

    def command(self) -> Command:
        """Any rank, never blocks: what the driver asks for right now, as far as this rank knows."""
        ...

    def emit(self, event: object) -> None:
        """Any rank, never blocks: send the driver an event (see ``telemetry.events``)."""
        ...

    def consult(self, step: int, event: object) -> None:
        """Rank 0: send the driver an event, and if it decides whether training goes on, wait for its decision.

        Args:
            step: Optimizer steps that are done; a step that was decided on before a restart is not waited for again.
            event: What the driver decides about.
        """
        ...
