"""How the ranks agree that a phase of a save is over, or that it failed.

A failure on one rank is a failure on all. A CheckpointError, such as that of a full disk, is raised with one text on
all ranks, which names the first rank that failed. Any other exception, of a user's hook for instance, is raised as it
is on its own rank, and the others raise an error that names the rank and the exception. Every call makes the same
collective calls on every rank whatever happens, so no rank hangs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar, cast

from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime

logger = logging.getLogger(__name__)

T = TypeVar("T")

_UNTOUCHED = "Earlier checkpoints are untouched."


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failure:
    """What the other ranks learn about an exception."""

    rank: int
    error: str


def of_rank_0(runtime: Runtime, find: Callable[[], T]) -> T:
    """All ranks: what rank 0 finds. An error there is raised everywhere, as it is.

    Args:
        runtime: This rank.
        find: Called on rank 0 alone.
    """
    outcome: T | Exception | None = None
    if runtime.rank == 0:
        try:
            outcome = find()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait for an answer
            outcome = error
    agreed = runtime.broadcast(outcome)
    if isinstance(agreed, Exception):
        raise agreed
    return cast("T", agreed)


class Agreement:
    """Runs actions on ranks; a failure on one is raised on all."""

    def __init__(self, runtime: Runtime, consequence: str) -> None:
        """Store who takes part.

        Args:
            runtime: This rank.
            consequence: What a failure means, as the beginning of a sentence.
        """
        self._runtime = runtime
        self._consequence = consequence

    def on_rank_0(self, action: Callable[[], None]) -> None:
        """All ranks: rank 0 acts, the others wait for it; if it fails, all raise."""
        error: Exception | None = None
        if self._runtime.rank == 0:
            try:
                action()
            except Exception as caught:  # noqa: BLE001 - raised when the other ranks know
                error = caught
        self._raise(error, self._runtime.broadcast(self._describe(error)))

    def on_all(self, action: Callable[[], T]) -> list[T] | None:
        """All ranks: each acts; rank 0 gets all results in rank order; if one rank fails, all raise."""
        error: Exception | None = None
        result: list[T] = []
        try:
            result.append(action())
        except Exception as caught:
            error = caught
            # Logged first, in case informing the other ranks fails.
            logger.warning("%s: %s: %s", self._consequence, type(error).__name__, error, exc_info=True)
        outcomes = self._runtime.gather((result, self._describe(error)))
        failures = [failure for _, failure in outcomes or [] if failure is not None]
        self._raise(error, self._runtime.broadcast(failures[0] if failures else None))
        return None if outcomes is None else [value for values, _ in outcomes for value in values]

    def _describe(self, error: Exception | None) -> _Failure | None:
        if error is None:
            return None
        how = "" if isinstance(error, CheckpointError) else f" with {type(error).__name__}"
        return _Failure(rank=self._runtime.rank, error=f"failed{how}: {error}")

    def _raise(self, own: Exception | None, first: _Failure | None) -> None:
        if own is not None and (self._runtime.world_size == 1 or not isinstance(own, CheckpointError)):
            if _UNTOUCHED not in str(own):
                own.add_note(f"{self._consequence}. {_UNTOUCHED}")
            raise own
        if first is not None:
            text = f"{self._consequence}, because rank {first.rank} {first.error}"
            if _UNTOUCHED not in text:
                text = f"{text.rstrip('.')}. {_UNTOUCHED}"
            raise CheckpointError(text) from (own and (own.__cause__ or own))
