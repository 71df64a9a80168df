"""What the control plane costs with thousands of workers: messages, bytes and CPU time, and what grows too fast.

    python benchmarks/scale.py [--workers 8 64 512 4096] [--steps 50]

The control actor itself, without Ray and without torch: each worker is a coroutine that makes the calls that a worker
makes, with the real messages, each pickled and unpickled on its way. A run has these parts:

* start: rank 0 joins, all ranks ask for a task and say which process they are;
* steps: a log at every step, as an impatient user has it, and a checkpoint in the end;
* hang: the driver asks all ranks where they are;
* failure: one rank raises, all others fail as a consequence, Ray Train reports the deaths, and all ranks begin again;
* end: the group closes, and all ranks leave.

CPU time is that of this process, so it counts the workers' side of each call too: an upper bound of what the control
actor needs, to which Ray adds its own time for each call. The last column is the growth of the CPU time from the row
before, over the growth of the number of workers: 1.0 is linear, below it something is paid once.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import gc
import pickle
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from raytrainer.control.actor import ControlActor
from raytrainer.telemetry.events import CheckpointCommitted, Logged, StepDone, TrainEnded, TrainStarted
from raytrainer.wire.failure_record import FailureRecord, WorkerDeaths, record_failure
from raytrainer.wire.messages import Answer, Place, RankProcess, Task, TaskResult

POLL_S = 20.0
RENEWAL_S = 20.0
"""How long a worker's call waits before it is made again; of these calls there are workers / RENEWAL_S in a second."""
CALL_S = 0.0005
"""CPU time of one call of an actor in its process, for Ray's part; `control_plane.py` measures it."""
LOGS: dict[str, object] = {
    "loss": 2.3456,
    "grad_norm": 1.234,
    "learning_rate": 5e-5,
    "epoch": 1.25,
    "num_input_tokens_seen": 123456,
}


@dataclass
class Part:
    """What one part of a run has cost."""

    calls: int = 0
    bytes: int = 0
    cpu_s: float = 0.0
    by_method: Counter[str] = field(default_factory=Counter[str])


class Wire:
    """Calls the control actor as a process elsewhere would, and counts."""

    def __init__(self, actor: ControlActor) -> None:
        self._actor = actor
        self.part = Part()

    async def call(self, method: str, *arguments: Any) -> Any:
        asked = pickle.dumps(arguments, protocol=5)
        self.part.calls += 1
        self.part.by_method[method] += 1
        answer = await getattr(self._actor, method)(*pickle.loads(asked))  # noqa: S301 - written above
        answered = pickle.dumps(answer, protocol=5)
        self.part.bytes += len(asked) + len(answered)
        return pickle.loads(answered)  # noqa: S301 - written above

    async def measured(self, run: Callable[[], Awaitable[None]]) -> Part:
        """Run a part, and return what it cost."""
        self.part = Part()
        began = time.process_time()
        await run()
        self.part.cpu_s = time.process_time() - began
        return self.part


def process_of(rank: int) -> RankProcess:
    """What a rank says of itself."""
    return RankProcess(
        rank=rank,
        pid=10_000 + rank,
        started=1.7e9 + rank,
        host=f"node-{rank // 8}",
        node_id=f"{rank // 8:056x}",
        log_file=f"/shared/run/logs/rank-{rank}.log",
    )


def failure_of(rank: int) -> FailureRecord:
    """The first rank raises; the others lose their connection to it."""
    try:
        if rank == 0:
            raise OSError(errno.EIO, "Input/output error")
        raise RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [10.0.0.1]:29500")
    except (OSError, RuntimeError) as error:
        return record_failure(
            error, rank=rank, attempt=0, step=50, method="train", log_file=f"/shared/run/logs/rank-{rank}.log"
        )


class Run:
    """A run with so many workers.

    Args:
        num_workers: Their number.
        num_steps: Steps with a log each.
    """

    def __init__(self, num_workers: int, num_steps: int) -> None:
        self.num_workers = num_workers
        self.num_steps = num_steps
        self.wire = Wire(ControlActor(max_failures=3, idle_timeout_s=300.0))
        self.attempt = -1
        self.num_pushed = 0
        self.watching: list[asyncio.Task[Any]] = []
        self.seen = 0

    async def all_ranks(self, one: Callable[[int], Awaitable[object]]) -> None:
        """All ranks do the same at once; their calls arrive one after the other."""
        calls: list[asyncio.Task[object]] = []
        for rank in range(self.num_workers):
            calls.append(asyncio.ensure_future(one(rank)))
            await asyncio.sleep(0)
        await asyncio.gather(*calls)

    async def watch(self, rank: int) -> None:
        """What a rank's second thread does until its attempt is over."""
        attempt, known, process = self.attempt, 0, process_of(rank)
        while True:
            found = await self.wire.call("watch", process, attempt, known, POLL_S)
            if found is not None and found.is_over:
                return
            if found is not None:
                known = found.request
                place = Place(
                    rank=rank, collective="all_reduce", at="torch/distributed/c10d.py:3000 (all_reduce)"
                )
                await self.wire.call("tell_place", attempt, known, place)

    async def follow(self) -> Any:
        """The driver's next look."""
        update = await self.wire.call("update", self.seen, POLL_S)
        self.seen = update.next_event
        return update

    async def begin(self) -> None:
        """All ranks begin an attempt and take the task that waits for them."""
        joined = await self.wire.call("join")
        self.attempt = joined.attempt
        self.watching = [asyncio.create_task(self.watch(rank)) for rank in range(self.num_workers)]

        async def take(rank: int) -> None:
            task = await self.wire.call("next_task", rank, self.attempt, POLL_S)
            assert isinstance(task, Task)

        await self.all_ranks(take)

    async def push(self, events: list[object]) -> None:
        await self.wire.call("push", self.attempt, "rank 0", self.num_pushed, events)
        self.num_pushed += 1

    async def start(self) -> None:
        await self.wire.call("submit", Task(task_id="one", method="train", payload=[b"x" * 56]))
        await self.begin()
        started = TrainStarted(max_steps=self.num_steps, first_step=0, num_epochs=1, attempt=0, rows=[])
        await self.push([started])
        await self.follow()

    async def steps(self) -> None:
        for step in range(1, self.num_steps + 1):
            done = StepDone(
                step=step, max_steps=self.num_steps, epoch=1.0, samples_per_s=[123.4] * self.num_workers
            )
            await self.push([Logged(step=step, max_steps=self.num_steps, logs=LOGS), done])
            await self.follow()
        commit = CheckpointCommitted(
            step=self.num_steps, path="/shared/run/checkpoint-50", num_bytes=1, seconds=1.0
        )
        await self.push([commit])
        await self.follow()

    async def hang(self) -> None:
        await self.wire.call("ask_places")
        while len((await self.wire.call("places")).places) < self.num_workers:
            await asyncio.sleep(0)

    async def failure(self) -> None:
        async def fail(rank: int) -> None:
            assert await self.wire.call("fail", failure_of(rank)) is Answer.RETRY

        await self.all_ranks(fail)
        assert await self.wire.call("report_deaths", WorkerDeaths(causes={}))
        before = self.watching
        await self.begin()
        await asyncio.gather(*before)
        await self.follow()

    async def end(self) -> None:
        async def leave(rank: int) -> None:
            assert await self.wire.call("next_task", rank, self.attempt, POLL_S) is Answer.LEAVE

        waiting = asyncio.ensure_future(self.all_ranks(leave))
        for _ in range(self.num_workers + 1):
            await asyncio.sleep(0)
        await self.push([TrainEnded(step=self.num_steps)])
        await self.wire.call("finish", TaskResult(task_id="one", payload=b"x" * 5000))  # type: ignore[arg-type]
        assert await self.wire.call("close")
        await waiting
        await self.wire.call("leave")
        for one in self.watching:
            one.cancel()
        await asyncio.gather(*self.watching, return_exceptions=True)


PARTS = ("start", "steps", "hang", "failure", "end")


async def measure(num_workers: int, num_steps: int) -> dict[str, Part]:
    """What each part of a run costs."""
    run = Run(num_workers, num_steps)
    return {name: await run.wire.measured(getattr(run, name)) for name in PARTS}


def main() -> None:
    """Measure each number of workers, and print a table and what would break first."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workers", type=int, nargs="+", default=[8, 64, 512, 4096])
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    # Its time grows with everything that lives in this process, and the workers live here too.
    gc.disable()
    found = {number: asyncio.run(measure(number, options.steps)) for number in options.workers}
    print_table(found)
    print_limits(max(found), found[max(found)], options.steps)


def print_table(found: dict[int, dict[str, Part]]) -> None:
    """Each part with each number of workers."""
    columns = (
        ("part", 8),
        ("workers", 7),
        ("calls", 8),
        ("each", 6),
        ("bytes", 11),
        ("each", 6),
        ("CPU ms", 9),
    )
    print(*(name.rjust(width) for name, width in columns), "growth")
    for name in PARTS:
        before: tuple[int, Part] | None = None
        for number, parts in found.items():
            part = parts[name]
            growth = before and part.cpu_s / before[1].cpu_s / (number / before[0])
            cells = (
                name,
                f"{number}",
                f"{part.calls}",
                f"{part.calls / number:.2f}",
                f"{part.bytes:,}",
                f"{part.bytes / number:.0f}",
                f"{1000 * part.cpu_s:.1f}",
            )
            widths = [width for _, width in columns]
            print(*map(str.rjust, cells, widths), f"{growth:6.2f}" if growth else "")
            before = number, part


def print_limits(number: int, parts: dict[str, Part], num_steps: int) -> None:
    """For how long the control actor's core is busy."""
    print(
        f"\n{number} workers, with {1000 * CALL_S:g} ms of Ray's time for each call: the control actor is busy"
    )
    print(
        f"  {number / RENEWAL_S * CALL_S:6.1%}  always, with calls that are made again every {RENEWAL_S:g} s"
    )
    for name in ("start", "hang", "failure", "end"):
        part = parts[name]
        print(f"  {part.calls * CALL_S + part.cpu_s:6.1f} s in {name}")
    steps = parts["steps"]
    print(f"  {1000 * (steps.calls * CALL_S + steps.cpu_s) / num_steps:6.1f} ms for a step with a log")


if __name__ == "__main__":
    main()
