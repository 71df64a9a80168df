"""Who is woken by what: each wake of thousands of waiting calls costs the control actor time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from raytrainer.control import actor as actor_module
from raytrainer.control.actor import ControlActor
from raytrainer.telemetry.events import Note
from raytrainer.wire.failure_record import record_failure
from raytrainer.wire.messages import Answer, Task

NUM_RANKS = 20


def run(story: Callable[[ControlActor], Awaitable[None]]) -> None:
    async def whole() -> None:
        actor = ControlActor(max_failures=3, idle_timeout_s=300.0)
        await actor.submit(Task(task_id="one", method="train", payload=[b""]))
        assert (await actor.join()).attempt == 0
        await story(actor)

    asyncio.run(whole())


def test_events_arrive_in_the_order_in_which_they_were_sent_whichever_call_runs_first() -> None:
    async def story(actor: ControlActor) -> None:
        events = [Note(text=str(number)) for number in range(3)]
        late = asyncio.create_task(actor.push(0, "rank 0", 1, [events[1]]))
        await asyncio.sleep(0)  # it runs, and waits
        other = asyncio.create_task(actor.push(0, "rank 1", 0, [events[2]]))
        await other
        assert not late.done(), "flushed is what has arrived"
        await actor.push(0, "rank 0", 0, [events[0]])
        await asyncio.wait_for(late, 10)
        update = await actor.update(0, 10.0)
        assert update is not None
        assert list(update.events) == [events[2], events[0], events[1]]

    run(story)


@pytest.fixture
def rings(monkeypatch: pytest.MonkeyPatch) -> list[None]:
    """One for each time that all calls of workers that wait were woken."""
    found: list[None] = []
    original = ControlActor._ring_both

    def ring(self: ControlActor) -> None:
        found.append(None)
        original(self)

    monkeypatch.setattr(ControlActor, "_ring_both", ring)
    return found


def test_the_failures_that_follow_a_failure_wake_nobody(rings: list[None]) -> None:
    async def story(actor: ControlActor) -> None:
        rings.clear()
        for rank in range(NUM_RANKS):
            record = record_failure(
                OSError("disk"), rank=rank, attempt=0, step=1, method="train", log_file=None
            )
            assert await actor.fail(record) is Answer.RETRY
        assert len(rings) == 1
        assert len((await actor.snapshot()).failures) == NUM_RANKS

    run(story)


def test_a_group_that_closes_wakes_all_ranks_once_and_each_leaves(rings: list[None]) -> None:
    async def story(actor: ControlActor) -> None:
        async def next_task(rank: int) -> object:
            return await actor.next_task(rank, 0, 20.0)

        for rank in range(NUM_RANKS):
            assert isinstance(await next_task(rank), Task)
        await actor.abandon("over")
        rings.clear()
        waiting = [asyncio.ensure_future(next_task(rank)) for rank in range(NUM_RANKS)]
        assert await asyncio.gather(*waiting) == [Answer.STOP] * NUM_RANKS
        assert rings == []

    run(story)


def test_a_group_that_nobody_gives_a_task_closes_for_all_ranks_at_once(rings: list[None]) -> None:
    async def whole() -> None:
        actor = ControlActor(max_failures=3, idle_timeout_s=0.05)
        assert (await actor.join()).attempt == 0
        rings.clear()
        answers = await asyncio.gather(*(actor.next_task(rank, 0, 20.0) for rank in range(NUM_RANKS)))
        assert answers == [Answer.LEAVE] * NUM_RANKS
        assert len(rings) == 1

    asyncio.run(whole())


@pytest.mark.parametrize("lives", [True, False])
def test_after_the_driver_a_group_is_ended_at_once_only_if_its_controller_has_died_too(
    lives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    ended: list[tuple[str, ...]] = []

    def is_there(name: str) -> bool:
        looked.append(name)
        return lives

    monkeypatch.setattr(actor_module, "_is_there", is_there)
    monkeypatch.setattr(actor_module, "SILENCE_S", 0.01)
    monkeypatch.setattr(actor_module, "LEAVE_S", 0.0)
    monkeypatch.setattr(ControlActor, "_end_all", lambda self, *names: ended.append(names))

    async def story(actor: ControlActor) -> None:
        async def end_of_driver() -> None: ...

        outliving = asyncio.create_task(actor._outlive(end_of_driver(), "control", "controller"))
        while len(looked) < (3 if lives else 1):
            await asyncio.sleep(0.01)
        if lives:
            assert ended == [], "the workers still save"
            await actor.leave()
            await actor.abandon("over")
        await asyncio.wait_for(outliving, 10)
        assert ended == [("control", "controller")]

    run(story)
