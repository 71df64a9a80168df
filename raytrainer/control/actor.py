"""The control actor: the one process that driver and all ranks of a group talk to.

A thin shell around ``ControlState``: it lets callers wait for an answer, for some seconds at a time, so that a call of
a process that died does not stay for ever. It holds no CPU, lives on the driver's node, and ends with the driver; what
workers leave here outlives them.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from raytrainer.control.state import ControlState, Update
from raytrainer.runtimes.base import Command
from raytrainer.wire.failure_record import FailureRecord
from raytrainer.wire.messages import Answer, Joined, Task, TaskResult

T = TypeVar("T")


class ControlActor:
    """``ControlState`` with waiting. Methods run on one event loop, so each state change is atomic."""

    def __init__(self, *, max_failures: int, idle_timeout_s: float) -> None:
        self._state = ControlState(
            max_failures=max_failures, idle_timeout_s=idle_timeout_s, clock=time.monotonic
        )
        self._for_driver = asyncio.Event()
        self._for_workers = asyncio.Event()

    async def ready(self) -> bool:
        return True

    # ---- the driver ---------------------------------------------------------------------------------------------

    async def submit(self, task: Task) -> bool:
        return self._told_workers(self._state.submit(task))

    async def update(self, next_event: int, wait_s: float) -> Update | None:
        return await self._wait(lambda: self._state.update(next_event), "_for_driver", wait_s)

    async def snapshot(self) -> Update:
        return self._state.snapshot()

    async def set_command(self, command: int) -> None:
        self._told_workers(self._state.set_command(Command(command)))

    async def close(self) -> bool:
        return self._told_both(self._state.close())

    async def abandon(self, reason: str) -> None:
        self._told_both(self._state.abandon(reason))

    async def parked(self, wait_s: float) -> Any:
        """What rank 0 left; waits for workers that are leaving, but not for those that stay."""
        await self._wait(self._state.is_settled, "_for_driver", wait_s)
        return self._state.parked()

    # ---- the workers --------------------------------------------------------------------------------------------

    async def join(self) -> Joined:
        return self._told_both(self._state.join())

    async def next_task(self, rank: int, attempt: int, wait_s: float) -> Task | Answer | None:
        left_s = self._state.idle_left_s()
        if left_s is not None:
            wait_s = min(wait_s, left_s + 0.01)
        answer = await self._wait(lambda: self._state.next_task(rank, attempt), "_for_workers", wait_s)
        # All ranks at once, not each at the end of its own wait.
        return self._told_both(answer) if answer is Answer.LEAVE else answer

    async def finish(self, result: TaskResult) -> None:
        self._told_both(self._state.finish(result))

    async def push(self, attempt: int, events: Sequence[object]) -> None:
        self._state.push(attempt, events)
        self._for_driver.set()

    async def fail(self, record: FailureRecord) -> Answer:
        return self._told_both(self._state.fail(record))

    async def command(self, known: int, wait_s: float) -> int | None:
        return await self._wait(lambda: self._state.command(Command(known)), "_for_workers", wait_s)

    async def is_over(self, attempt: int, wait_s: float) -> bool | None:
        return await self._wait(lambda: self._state.is_over(attempt), "_for_workers", wait_s)

    async def park(self, value: Any) -> None:
        self._state.park(value)

    async def leave(self) -> None:
        self._state.leave()
        self._for_driver.set()

    # ---- waiting ------------------------------------------------------------------------------------------------

    async def _wait(self, look: Callable[[], T | None], bell: str, wait_s: float) -> T | None:
        deadline = time.monotonic() + wait_s
        while True:
            # A new bell for each round: whoever rings the old one wakes all who waited for it.
            event = getattr(self, bell)
            if event.is_set():
                event = asyncio.Event()
                setattr(self, bell, event)
            found = look()
            left_s = deadline - time.monotonic()
            if found is not None or left_s <= 0:
                return found
            try:
                await asyncio.wait_for(event.wait(), left_s)
            except TimeoutError:
                return look()

    def _told_workers(self, value: T) -> T:
        self._for_workers.set()
        return value

    def _told_both(self, value: T) -> T:
        self._for_driver.set()
        self._for_workers.set()
        return value
