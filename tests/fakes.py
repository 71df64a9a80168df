"""Several ranks in one process: a Runtime with in-memory collectives, one thread per rank."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from raytrainer.runtimes.base import Command

T = TypeVar("T")

COLLECTIVE_TIMEOUT_S = 20.0


class LostRankError(RuntimeError):
    """A rank ended while others waited for it in a collective; real ranks would hang."""


class FakeWorld:
    """A world of ranks that run as threads.

    A rank that ends while others wait for it ends their collective with a ``LostRankError``, so a test of code that
    would hang fails instead.
    """

    def __init__(self, world_size: int = 1, *, run_id: str = "run", attempt: int = 0) -> None:
        self.world_size = world_size
        self.run_id = run_id
        self.attempt = attempt
        self.commanded = Command.NONE
        self.runtimes: list[FakeRuntime] = []
        self._open()

    def run(self, fn: Callable[[FakeRuntime], T]) -> list[T]:
        """Run ``fn`` on all ranks; return their results in rank order, or raise the first rank's exception."""
        outcomes = self.outcomes(fn)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return outcomes

    def outcomes(self, fn: Callable[[FakeRuntime], T]) -> list[Any]:
        """Run ``fn`` on all ranks; return what each returned or raised."""
        self._open()
        results: list[Any] = [None] * self.world_size

        def work(rank: int) -> None:
            try:
                results[rank] = fn(self.runtimes[rank])
            except BaseException as error:
                results[rank] = error
            finally:
                self._leave()

        threads = [
            threading.Thread(target=work, args=(rank,), daemon=True) for rank in range(self.world_size)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(2 * COLLECTIVE_TIMEOUT_S)
            assert not thread.is_alive(), "a rank hangs"
        return results

    def exchange(self, rank: int, value: Any) -> list[Any]:
        """All ranks: the values of all ranks."""
        self._slots[rank] = value
        self._meet()
        values = list(self._slots)
        self._meet()  # nobody overwrites a slot that another rank has yet to read
        return values

    def _open(self) -> None:
        self._slots: list[Any] = [None] * self.world_size
        self._changed = threading.Condition()
        self._num_arrived = 0
        self._num_left = 0
        self._num_meetings = 0
        self.runtimes = [FakeRuntime(self, rank) for rank in range(self.world_size)]

    def _meet(self) -> None:
        with self._changed:
            meeting = self._num_meetings
            self._num_arrived += 1
            if self._num_arrived == self.world_size:
                self._num_arrived = 0
                self._num_meetings += 1
                self._changed.notify_all()
                return
            self._changed.wait_for(
                lambda: self._num_meetings != meeting or self._num_left > 0, timeout=COLLECTIVE_TIMEOUT_S
            )
            if self._num_meetings == meeting:
                raise LostRankError(f"{self._num_left} of {self.world_size} ranks left while others waited")

    def _leave(self) -> None:
        with self._changed:
            self._num_left += 1
            self._changed.notify_all()


class FakeRuntime:
    """One rank of a FakeWorld. What crosses a collective is copied, as it is between processes."""

    def __init__(self, world: FakeWorld, rank: int) -> None:
        self.rank = self.local_rank = rank
        self.world_size = self.local_world_size = world.world_size
        self.attempt = world.attempt
        self.run_id = world.run_id
        self.events: list[object] = []
        self._world = world

    def barrier(self) -> None:
        self._world.exchange(self.rank, None)

    def broadcast(self, value: T) -> T:
        return copy.deepcopy(self._world.exchange(self.rank, value)[0])

    def gather(self, value: T) -> list[T] | None:
        values = self._world.exchange(self.rank, value)
        return copy.deepcopy(values) if self.rank == 0 else None

    def scatter(self, values: Sequence[T] | None) -> T:
        return copy.deepcopy(self._world.exchange(self.rank, values)[0][self.rank])

    def agree(self, flags: Sequence[int]) -> list[int]:
        return [max(column) for column in zip(*self._world.exchange(self.rank, list(flags)), strict=True)]

    def add_up(self, numbers: Sequence[int]) -> list[int]:
        return [sum(column) for column in zip(*self._world.exchange(self.rank, list(numbers)), strict=True)]

    def command(self) -> Command:
        return self._world.commanded

    def emit(self, event: object) -> None:
        self.events.append(event)
