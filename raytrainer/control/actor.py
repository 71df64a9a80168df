"""The control actor: the one process that driver and all ranks of a group talk to.

Other trainers of the cluster find it by its name, to see whether its workers are idle while they wait for room.

A thin shell around ``ControlState`` that lets callers wait for an answer, a limited time at once, so that the call of a
process that died does not stay forever. It reserves no CPU, and runs on the driver's node. What workers leave here
outlives them.

On a Ray that lives only for its driver it ends with the driver. On a cluster it outlives a driver that was killed, and
so do the workers, until a training run has saved: Ray kills the driver of a stopped job after three seconds, in which a
step need not end. What a driver owns, Ray ends with it; so actor, controller and room are not the driver's there
(``driver/group_start.py``).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, cast

import ray
import ray.exceptions
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from raytrainer.control.spared import spare_this_process
from raytrainer.control.state import DRIVER_ENDED, ControlState, Update
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.wire.failure_record import FailureRecord, WorkerDeaths
from raytrainer.wire.messages import Answer, Joined, Place, RankProcess, Ranks, Task, TaskResult, Watch

if TYPE_CHECKING:
    from raytrainer.wire.pickling import Shipped

T = TypeVar("T")

NAMESPACE = "raytrainer"
"""Ray's namespace of control actors, in which every process of a cluster finds them."""
LAST_SAVE_S = 300.0
"""How long workers may take to save after their driver has ended."""
SILENCE_S = 5.0
"""After so long without a word of the workers it looks whether their controller lives."""
LEAVE_S = 6.0
"""How long they may take to leave after that; those that are stuck end themselves before."""

STEP_S = 3600.0
"""How long whoever waits for a step waits for the next ring; then it looks by itself."""


class Bell:
    """Wakes everybody who waits for it."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_s: float) -> bool:
        """Wait for the next ring; False when the time is up."""
        try:
            await asyncio.wait_for(self._event.wait(), timeout_s)
        except TimeoutError:
            return False
        return True


class ControlActor:
    """``ControlState`` with waiting. Methods run on one event loop, so each state change is atomic.

    Args:
        max_failures: Restarts of the workers that each call may use; -1 for no limit.
        idle_timeout_s: How long workers wait for a task before they leave [s].
    """

    def __init__(self, *, max_failures: int, idle_timeout_s: float) -> None:
        spare_this_process()
        self._state = ControlState(
            max_failures=max_failures, idle_timeout_s=idle_timeout_s, clock=time.monotonic
        )
        self._driver_bell = Bell()
        self._worker_bell = Bell()
        self._groups: list[PlacementGroup] = []
        self._outliving: asyncio.Task[None] | None = None
        self._hub_token: str | None = None
        self._arrival = asyncio.Condition()
        self._num_arrived: dict[str, int] = {}
        """Calls of ``push``, by sender."""

    # ---- the driver ---------------------------------------------------------------------------------------------

    async def submit(self, task: Task) -> bool:
        is_taken = self._state.submit(task)
        self._worker_bell.ring()
        return is_taken

    async def update(self, next_event: int, wait_s: float) -> Update | None:
        return await _wait(lambda: self._state.update(next_event), self._driver_bell, wait_s)

    async def snapshot(self) -> Update:
        return self._state.snapshot()

    async def set_command(self, command: int) -> None:
        self._state.set_command(Command(command))
        self._worker_bell.ring()

    async def decide(self, step: int, command: int) -> None:
        self._state.decide(step, Command(command))
        self._worker_bell.ring()

    async def ask_places(self) -> None:
        self._state.ask_places()
        self._worker_bell.ring()

    async def places(self) -> Ranks:
        return self._state.places()

    async def end_hung(self, attempt: int, how: str) -> None:
        self._state.end_hung(attempt, how)
        self._ring_both()

    async def set_room(self, room: object) -> None:
        self._state.set_room(room)
        self._worker_bell.ring()

    async def set_hub_token(self, token: str | None) -> None:
        self._hub_token = token

    async def close(self) -> bool:
        is_closed = self._state.close()
        self._ring_both()
        return is_closed

    async def abandon(self, reason: str) -> None:
        self._state.abandon(reason)
        self._ring_both()

    async def final_weights(self, wait_s: float) -> Shipped | None:
        """What the workers left; waits for workers that are leaving, but not for those that stay."""
        await _wait(self._state.is_settled, self._driver_bell, wait_s)
        return self._state.final_weights()

    # ---- the workers --------------------------------------------------------------------------------------------

    async def hub_token(self) -> str | None:
        """What rank 0 uploads with; None if it uploads nothing."""
        return self._hub_token

    async def join(self) -> Joined:
        joined = self._state.join()
        self._ring_both()
        return joined

    async def next_task(self, rank: int, attempt: int, wait_s: float) -> Task | Answer | None:
        """Wait for the next task of a rank.

        Args:
            rank: The rank that asks.
            attempt: Its attempt.
            wait_s: How long to wait at most [seconds].

        Returns:
            A task, an answer to leave, or None if there is none yet.
        """
        left_s = self._state.idle_left_s()
        if left_s is not None:
            wait_s = min(wait_s, left_s + 0.01)
        return await _wait(lambda: self._next_task(rank, attempt), self._worker_bell, wait_s)

    def _next_task(self, rank: int, attempt: int) -> Task | Answer | None:
        before = self._state.turn
        answer = self._state.next_task(rank, attempt)
        # When this closed the group, all ranks leave at once, and not each at the end of its own wait.
        self._ring_both_after(before)
        return answer

    async def finish(self, result: TaskResult) -> None:
        self._state.finish(result)
        self._ring_both()

    async def push(self, attempt: int, sender: str, number: int, events: Sequence[object]) -> None:
        """Take over events of a rank, after those that it sent before: Ray runs two calls in whatever order.

        Args:
            attempt: Of the rank.
            sender: Names who numbers the calls.
            number: Of the call, from 0 on.
            events: In order.
        """
        async with self._arrival:
            await self._arrival.wait_for(lambda: self._num_arrived.get(sender, 0) == number)
            self._state.push(attempt, events)
            self._num_arrived[sender] = number + 1
            self._arrival.notify_all()
        self._driver_bell.ring()

    async def fail(self, record: FailureRecord) -> Answer:
        before = self._state.turn
        answer = self._state.fail(record)
        self._ring_both_after(before)
        return answer

    async def command(self, known: int, wait_s: float) -> int | None:
        return await _wait(lambda: self._state.command(Command(known)), self._worker_bell, wait_s)

    async def decision(self, step: int, wait_s: float) -> int | None:
        return await _wait(lambda: self._state.decision(step), self._worker_bell, wait_s)

    async def watch(self, process: RankProcess, attempt: int, known: int, wait_s: float) -> Watch | None:
        """Wait for what is asked of a rank beside its task.

        Args:
            process: The rank's.
            attempt: Its attempt.
            known: Number of the last request to say where it is that it answered.
            wait_s: How long to wait at most [seconds].
        """
        return await _wait(lambda: self._state.watch(process, attempt, known), self._worker_bell, wait_s)

    async def tell_place(self, attempt: int, request: int, place: Place) -> None:
        self._state.tell_place(attempt, request, place)

    async def move(self, attempt: int, step: int | None) -> None:
        self._state.move(attempt, step)
        self._ring_both()

    async def store_final_weights(self, weights: Shipped) -> None:
        self._state.store_final_weights(weights)

    async def leave(self) -> None:
        self._state.leave()
        self._driver_bell.ring()

    # ---- Ray Train's controller ---------------------------------------------------------------------------------

    async def report_deaths(self, deaths: WorkerDeaths) -> bool:
        may_restart = self._state.report_deaths(deaths)
        self._ring_both()
        return may_restart

    async def room(self, wait_s: float) -> object | None:
        return await _wait(self._state.room, self._worker_bell, wait_s)

    async def next_step(self) -> bool:
        """Answers when an attempt that begins after this call has done a step."""
        attempt = self._state.attempt
        while not self._state.has_stepped_after(attempt):
            await self._driver_bell.wait(STEP_S)
        return True

    # ---- other trainers of the cluster, which wait for what the workers hold; plain values, for other versions -------

    async def idle_for_s(self) -> float | None:
        return self._state.idle_for_s()

    async def close_if_idle_for(self, at_least_s: float) -> bool:
        is_closed = self._state.close_if_idle_for(at_least_s)
        self._ring_both()
        return is_closed

    # ---- after the driver's end ---------------------------------------------------------------------------------

    async def hold(self) -> None:
        """Never answers. The driver owns the answer, so whoever waits for it learns of the driver's end."""
        await asyncio.Event().wait()

    async def outlive_driver(self, held: Sequence[Ref[None]], name: str, controller: str) -> None:
        """From now on: when the driver has ended, let workers save, then end them, the controller and this actor.

        Args:
            held: The one answer that the driver waits for from ``hold``.
            name: Of this actor.
            controller: Name of Ray Train's controller, which owns the workers.
        """
        self._outliving = asyncio.create_task(self._outlive(held[0], name, controller))

    async def make_room(self, bundles: list[dict[str, float]], options: dict[str, Any]) -> PlacementGroup:
        """Ask Ray for a placement group that lasts until the driver and this actor have ended."""
        group = await asyncio.to_thread(placement_group, bundles, **options)
        self._groups.append(group)
        return group

    async def _outlive(self, held: Ref[None], name: str, controller: str) -> None:
        with contextlib.suppress(ray.exceptions.RayError):  # That its owner has died.
            await cast("Awaitable[None]", held)
        self._state.lose_driver()
        self._ring_both()
        deadline = time.monotonic() + LAST_SAVE_S
        while self._state.is_open() and (left_s := deadline - time.monotonic()) > 0:
            is_silent = not await self._driver_bell.wait(min(left_s, SILENCE_S))
            if is_silent and not await asyncio.to_thread(_is_there, controller):
                break  # its workers have ended with it, and nobody starts others
        self._state.abandon(DRIVER_ENDED)
        self._ring_both()
        await asyncio.sleep(LEAVE_S)
        await asyncio.to_thread(self._end_all, name, controller)

    def _end_all(self, *names: str) -> None:
        for group in self._groups:
            with contextlib.suppress(Exception):
                remove_placement_group(group)
        for name in reversed(names):  # this actor last
            with contextlib.suppress(ValueError):  # it has ended
                ray_calls.kill(cast("object", ray.get_actor(name, namespace=NAMESPACE)))

    # ---- waiting ------------------------------------------------------------------------------------------------

    def _ring_both_after(self, before: object) -> None:
        if self._state.turn != before:
            self._ring_both()

    def _ring_both(self) -> None:
        self._driver_bell.ring()
        self._worker_bell.ring()


def _is_there(name: str) -> bool:
    try:
        ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return False
    except ray.exceptions.RayError:  # Ray does not say
        return True
    return True


async def _wait(look: Callable[[], T | None], bell: Bell, wait_s: float) -> T | None:
    """What ``look`` finds, looking again at each ring of the bell; None when the time is up."""
    deadline = time.monotonic() + wait_s
    while (found := look()) is None:
        left_s = deadline - time.monotonic()
        if left_s <= 0 or not await bell.wait(left_s):
            return look()
    return found
