"""What the driver does when a run stands still: it says which ranks wait for which, and starts them again if asked to.

Nothing ends a rank that waits for another one before ``ddp_timeout``, half an hour by default. Long before, after
``hang_warning_s``, the ranks are asked where they are. Those that wait in a collective are not to blame; those that do
something else are, and those that do not answer are looked at from another process of their node. The stacks of all
are in the logs. With ``hang_timeout_s`` the workers are ended and started again, which counts as a failure.

The driver's thread is never held up by that: the ranks are asked in another one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import ray
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raytrainer.control.state import Update
from raytrainer.driver import ray_threads
from raytrainer.driver.hang_clock import HangClock
from raytrainer.runtimes import ray_calls
from raytrainer.telemetry.events import Note
from raytrainer.wire.messages import Place, RankProcess, Ranks
from raytrainer.worker.silent_process import examine

logger = logging.getLogger(__name__)

ANSWER_S = 3.0
"""How long ranks may take to say where they are."""
EXAMINE_S = 30.0
"""How long it may take to look at those that do not."""


class Asks(Protocol):
    """What is asked of the workers' control actor."""

    def ask_places(self) -> None:
        """Ask all ranks where they are."""
        ...

    def places(self) -> Ranks:
        """What they have answered."""
        ...

    def end_hung(self, attempt: int, how: str) -> None:
        """End ranks that stand still."""
        ...

    def end(self) -> None:
        """End the control actor."""
        ...


class Hangs:
    """Looks after one task.

    Args:
        warning_s: After how long without progress the user is told [s]; 0 for never.
        timeout_s: After how long the workers are started again [s]; None for never.
        control: The control actor.
        log_dir: Where the logs of the ranks are.
        show: Renders a note; also called in another thread.
        examine_silent: Looks at ranks that do not answer, and kills them if it is told to.
        in_thread: Runs a function in another thread.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        warning_s: float,
        timeout_s: float | None,
        control: Asks,
        *,
        log_dir: str | None,
        show: Callable[[object], None],
        examine_silent: Callable[[Sequence[RankProcess], bool], dict[int, str]] | None = None,
        in_thread: Callable[[Callable[[], None]], None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._warning_s = warning_s
        self._timeout_s = timeout_s
        self._control = control
        self._log_dir = log_dir
        self._show = show
        self._examine = examine_silent or examine_on_nodes
        self._in_thread = in_thread or _start_thread
        self._progress = HangClock(clock)
        self._attempt = -1
        self._told_s = 0.0
        """Quiet seconds at which the user was told last."""
        self._ended_attempt: int | None = None
        self._is_asking = False

    def begin(self, update: Update) -> None:
        """The task was given to workers that have had one before."""
        self._attempt = update.attempt
        self._progress.begin(update)

    def follow(self, update: Update) -> None:
        """Take over what is new of the task."""
        if update.attempt != self._attempt:
            self._told_s = 0.0  # Those of whom the user was told are gone.
        if self._told_s and update.events and update.is_running:
            quiet_s = self._progress.quiet_s
            self._progress.follow(update)
            if self._progress.quiet_s < quiet_s:
                self._told_s = 0.0
                self._show(Note(text=f"the ranks go on, after {quiet_s:.0f} s"))
        else:
            self._progress.follow(update)
        self._attempt = update.attempt

    def look(self) -> None:
        """Look whether the run stands still, and have the ranks asked if it does."""
        if self._is_asking or self._progress.quiet_s == 0.0:
            return
        if self._is_due(self._timeout_s) and self._ended_attempt != self._attempt:
            self._ended_attempt = self._attempt
            self._ask(ends=True)
        elif self._warning_s and self._is_due(self._warning_s, 2 * self._told_s):
            self._told_s = self._progress.quiet_s
            self._ask(ends=False)

    def _is_due(self, least_s: float | None, at_least_s: float = 0.0) -> bool:
        if least_s is None:
            return False
        return self._progress.quiet_s >= max(self._progress.limit_s(least_s), at_least_s)

    def _ask(self, *, ends: bool) -> None:
        attempt, last, before_s = self._attempt, self._progress.last, self._progress.quiet_s

        def ask() -> None:
            try:
                how = self._find_out(last, ends=ends)
                if self._attempt != attempt or self._progress.quiet_s < before_s:
                    return  # They went on meanwhile.
                if ends:
                    self._control.end_hung(attempt, how)
                else:
                    self._show(Note(text=how, level="warning"))
            except Exception:  # Whatever it is, the run may still go on.
                logger.warning("Could not find out why the ranks stand still.", exc_info=True)
            finally:
                self._is_asking = False

        self._is_asking = True
        self._in_thread(ask)

    def _find_out(self, last: str, *, ends: bool) -> str:
        try:
            self._control.ask_places()
            time.sleep(ANSWER_S)
            ranks = self._control.places()
        except ray.exceptions.RayError as error:
            if ends:
                self._control.end()  # Then the whole group is made anew.
            where = (
                f"The control actor, through which ranks are asked, does not answer ({type(error).__name__})"
            )
        else:
            where = words_for(ranks, self._examine(ranks.silent, ends))
        logs = f" The Python stacks of all ranks are in {self._log_dir}." if self._log_dir else ""
        return f"No progress for {self._progress.quiet_s:.0f} s: {last}. {where}.{logs}"


def _start_thread(target: Callable[[], None]) -> None:
    ray_threads.start(target, "raytrainer-hang")


def words_for(ranks: Ranks, silent: dict[int, str]) -> str:
    """Which ranks wait for which.

    Args:
        ranks: What they answered.
        silent: Rank -> what the process of one that did not answer does.
    """
    parts: list[str] = []
    waits = any(place.collective is not None for place in ranks.places)
    for place, numbers in _grouped(ranks.places).items():
        who = _listed(numbers)
        if place[0] is not None:
            parts.append(f"{who} wait{_s(numbers)} for the others in {place[0]} ({place[1]})")
        elif waits:
            parts.append(f"{who} did not come: {'they are' if len(numbers) > 1 else 'it is'} at {place[1]}")
        else:
            parts.append(f"{who} {_is(numbers)} at {place[1]}")
    for process in ranks.silent:
        text = silent.get(process.rank, f"{process.pid} on {process.host} does not answer")
        parts.append(f"rank {process.rank} did not come: process {text}")
    text = "; ".join(parts) or "no rank answers"
    return text[0].upper() + text[1:]


def _grouped(places: Sequence[Place]) -> dict[tuple[str | None, str], list[int]]:
    """Ranks by place; those that wait come first."""
    grouped: dict[tuple[str | None, str], list[int]] = {}
    for place in sorted(places, key=lambda place: (place.collective is None, place.rank)):
        grouped.setdefault((place.collective, place.at), []).append(place.rank)
    return grouped


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(str(number) for number in numbers[:16])
    more = f" and {len(numbers) - 16} more" if len(numbers) > 16 else ""
    return f"rank{'s' if len(numbers) > 1 else ''} {shown}{more}"


def _s(numbers: Sequence[int]) -> str:
    return "" if len(numbers) > 1 else "s"


def _is(numbers: Sequence[int]) -> str:
    return "are" if len(numbers) > 1 else "is"


def examine_on_nodes(silent: Sequence[RankProcess], ends: bool) -> dict[int, str]:
    """Look at processes from others on their nodes.

    Args:
        silent: The processes.
        ends: Kill them after that.

    Returns:
        Rank -> what its process does, of those that could be looked at.
    """
    calls: dict[int, Any] = {}
    for process in silent:
        there: Any = NodeAffinitySchedulingStrategy(process.node_id, soft=False)
        task: Any = ray.remote(examine)
        options = task.options(num_cpus=0, max_retries=0, scheduling_strategy=there)
        calls[process.rank] = options.remote(process, ends=ends)
    found: dict[int, str] = {}
    for rank, call in calls.items():
        try:
            found[rank] = ray_calls.get(call, EXAMINE_S)
        except ray.exceptions.RayError:
            logger.debug("Could not look at the process of rank %d.", rank, exc_info=True)
    return found
