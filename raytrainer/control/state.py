"""What driver and workers of one group agree on: tasks, attempts, events, failures, and when it is over.

All ranks get the same answer because they all ask here: which task is next, that the group closes because no task came,
that a failure ended the run. What follows from a failure is decided by ``failure_policy``. Every method returns at
once; "nothing yet" is None, and the caller asks again.

Plain: no Ray, no clock of its own. ``control.actor`` puts it into an actor.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from raytrainer.control.event_log import EventLog
from raytrainer.control.failure_history import History
from raytrainer.control.failure_kinds import timed_out
from raytrainer.control.failure_policy import Action, decide
from raytrainer.control.rank_places import RankPlaces
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import CheckpointCommitted, Note, StepDone, TrainStarted
from raytrainer.wire.failure_record import FailureRecord, WorkerDeaths
from raytrainer.wire.messages import Answer, Joined, Place, RankProcess, Ranks, Task, TaskResult, Watch

if TYPE_CHECKING:
    from raytrainer.wire.pickling import Shipped

KEPT_TASKS = 4
"""Tasks whose arguments are kept for ranks that are behind."""
DRIVER_ENDED = "the driver has ended"


class Phase(enum.Enum):
    """Where the life of a group stands."""

    OPEN = "open"
    CLOSED = "closed"
    """No further task is taken; workers leave."""
    FATAL = "fatal"
    """A failure ended it; workers leave."""


@dataclass(kw_only=True)
class Update:
    """What the driver has not seen yet."""

    events: list[object] = field(default_factory=list[object])
    next_event: int = 0
    result: TaskResult | None = None
    phase: Phase = Phase.OPEN
    reason: str | None = None
    """Why it ended, in phase FATAL."""
    failures: list[FailureRecord] = field(default_factory=list[FailureRecord])
    """Exceptions of the ranks in this attempt."""
    deaths: WorkerDeaths | None = None
    """Processes that ended in this attempt, as far as Ray has reported them."""
    last_commit: CheckpointCommitted | None = None
    attempt: int = -1
    """The last start of the workers, 0 for the first; -1 before it."""
    num_attempts: int = 0
    """Starts of the workers that the current call has seen."""
    num_restarts: int = 0
    """Those that the current call has used of ``max_failures``."""
    is_running: bool = False
    """The workers are there, and have not failed."""
    needs_room: bool = False
    """The workers have left their room because they were asked to move, and wait for another one."""


class ControlState:
    """The state of one worker group.

    Args:
        max_failures: Restarts of the workers that each call may use; -1 for no limit.
        idle_timeout_s: How long workers wait for a task before they leave [s].
        clock: Seconds of a clock that never goes back.
    """

    def __init__(self, *, max_failures: int, idle_timeout_s: float, clock: Callable[[], float]) -> None:
        self._max_failures = max_failures
        self._idle_timeout_s = idle_timeout_s
        self._clock = clock
        self._phase = Phase.OPEN
        self._reason: str | None = None
        # Tasks.
        self._tasks: list[Task] = []
        self._result: TaskResult | None = None
        self._command = Command.NONE
        self._decided_step = -1
        self._task_began_in: int | None = None
        self._next_of_rank: dict[int, int] = {}
        self._idle_since: float | None = None
        # The attempt that runs, or that failed last.
        self._attempt = -1
        self._first_task_of_attempt = 0
        self._failures: list[FailureRecord] = []
        self._deaths: WorkerDeaths | None = None
        self._will_restart = False
        self._first_step: int | None = None
        self._stepped_in = -1
        self._history = History(max_failures=max_failures)
        # What the driver reads.
        self._events = EventLog()
        self._last_commit: CheckpointCommitted | None = None
        self._final_weights: Shipped | None = None
        self._has_left = False
        self._has_driver = True
        self._places = RankPlaces()
        self._hung_attempt: int | None = None
        # Where workers run; only the driver and Ray Train's controller know what it is.
        self._room: object | None = None
        self._needs_room = False

    # ---- the driver's side --------------------------------------------------------------------------------------

    def submit(self, task: Task) -> bool:
        """Give the workers a task. False when the group takes no further task."""
        if self._phase is not Phase.OPEN:
            return False
        self._command = Command.NONE
        self._decided_step = -1
        self._tasks.append(task)
        if len(self._tasks) > KEPT_TASKS:
            # No rank is that far behind; the arguments may hold a whole dataset.
            self._tasks[-KEPT_TASKS - 1] = replace(self._tasks[-KEPT_TASKS - 1], payload=None, trainer=None)
        self._result = None
        self._idle_since = None
        self._task_began_in = None
        self._begin_history(task.num_failures)
        return True

    def update(self, next_event: int) -> Update | None:
        """What is new since event number ``next_event``, or None."""
        events = self._events.since(next_event)
        if not events and self._result is None and self._phase is Phase.OPEN:
            return None
        return self.snapshot(events)

    def snapshot(self, events: Sequence[object] = ()) -> Update:
        """How things stand, whether or not they are new."""
        return Update(
            events=list(events),
            next_event=self._events.next_number,
            result=self._result,
            phase=self._phase,
            reason=self._reason,
            failures=list(self._failures),
            deaths=self._deaths,
            last_commit=self._last_commit,
            attempt=self._attempt,
            num_attempts=self._history.num_attempts,
            num_restarts=self._history.num_restarts,
            is_running=self._phase is Phase.OPEN and self._attempt >= 0 and not self._will_restart,
            needs_room=self._needs_room,
        )

    def set_command(self, command: Command) -> None:
        """Ask something of the running task."""
        if not self._is_idle():
            self._command = max(self._command, command)

    def decide(self, step: int, command: Command) -> None:
        """Let the running task go on from an evaluation, or ask something of it first.

        Args:
            step: The step of the evaluation.
            command: What is asked; ``Command.NONE`` lets it go on.
        """
        self.set_command(command)
        self._decided_step = max(self._decided_step, step)

    def set_room(self, room: object) -> None:
        """Say where workers run when they are started next."""
        self._room = room
        self._needs_room = False

    def close(self) -> bool:
        """Take no further task. False while one is running."""
        if not self._is_idle():
            return False
        if self._phase is Phase.OPEN:
            self._phase = Phase.CLOSED
        return True

    def close_if_idle_for(self, at_least_s: float) -> bool:
        """Take no further task, if none has come for a while. True when the workers leave."""
        idle_s = self.idle_for_s()
        return idle_s is not None and idle_s >= at_least_s and self.close()

    def abandon(self, reason: str) -> None:
        """End it now, whatever is running."""
        if self._phase is Phase.OPEN:
            self._end(reason)

    def ask_places(self) -> None:
        """Ask all ranks where they are."""
        self._places.ask()

    def places(self) -> Ranks:
        """What they have answered until now."""
        return self._places.found()

    def end_hung(self, attempt: int, how: str) -> None:
        """The ranks of an attempt stand still: end them, and start others in their place if that is allowed.

        Args:
            attempt: Start of the workers.
            how: How they stand still.
        """
        if attempt != self._attempt or self._phase is not Phase.OPEN or self._will_restart:
            return
        deaths = WorkerDeaths(causes={}, hang=how)
        self._settle(deaths)
        self._hung_attempt = attempt
        if not self.is_open():
            self._deaths = deaths

    def lose_driver(self) -> None:
        """The driver has ended. A training run saves and stops; nobody would use what else runs here."""
        self._has_driver = False
        if self._is_idle() or self._will_restart or self._tasks[-1].method != "train":
            self.abandon(DRIVER_ENDED)
        else:
            self.set_command(Command.STOP_AFTER_SAVE)

    def is_open(self) -> bool:
        """Whether workers have, or may get, something to do."""
        return self._phase is Phase.OPEN

    def final_weights(self) -> Shipped | None:
        """The weights that the workers left here, if they did."""
        return self._final_weights

    def is_settled(self) -> bool | None:
        """True unless workers are leaving, and may still leave weights here; so may rank 0 when it has failed."""
        if self._has_left or self._phase is Phase.OPEN:
            return True
        return None if self._phase is Phase.CLOSED or any(one.rank == 0 for one in self._failures) else True

    # ---- the workers' side --------------------------------------------------------------------------------------

    def join(self) -> Joined:
        """Rank 0, at the start of each attempt."""
        if self._phase is Phase.OPEN and self._attempt >= 0 and not self._will_restart:
            # The last attempt failed, and neither its ranks nor Ray said so.
            self._settle(WorkerDeaths(causes={}))
        self._begin_attempt()
        return Joined(attempt=self._attempt, is_over=self._phase is not Phase.OPEN)

    def next_task(self, rank: int, attempt: int) -> Task | Answer | None:
        """The next task of a rank; every task goes to every rank, in order, until it has a result."""
        if self._phase is not Phase.OPEN or attempt != self._attempt:
            return Answer.LEAVE if self._phase is Phase.CLOSED else Answer.STOP
        index = self._next_of_rank.get(rank, self._first_task_of_attempt)
        if index < len(self._tasks):
            self._next_of_rank[rank] = index + 1
            if self._task_began_in is None:
                self._task_began_in = attempt
            task = self._tasks[index]
            return replace(task, restarts=task.restarts + attempt - self._task_began_in)
        # Decided once and for all: after this, every rank is told to leave and the driver's next task is refused.
        if self.idle_left_s() == 0:
            self._phase = Phase.CLOSED
            return Answer.LEAVE
        return None

    def idle_left_s(self) -> float | None:
        """Seconds until the group closes because no task came; None while a task runs."""
        if self._idle_since is None or not self._is_idle():
            return None
        return max(0.0, self._idle_timeout_s - (self._clock() - self._idle_since))

    def idle_for_s(self) -> float | None:
        """Seconds since the workers have had nothing to do; None while a task runs, or before they have started."""
        if self._idle_since is None or not self._is_idle() or self._phase is not Phase.OPEN:
            return None
        return self._clock() - self._idle_since

    def finish(self, result: TaskResult) -> None:
        """Rank 0: a task has its result, and is never run again."""
        if not self._tasks or result.task_id != self._tasks[-1].task_id or self._result is not None:
            return
        self._result = result
        self._idle_since = self._clock()
        self._command = Command.NONE
        self._begin_history()
        if not self._has_driver:
            self.abandon(DRIVER_ENDED)

    def push(self, attempt: int, events: Sequence[object]) -> None:
        """Events of a rank, in order."""
        if attempt != self._attempt:
            return  # From a worker that is being replaced: its progress no longer counts.
        for event in events:
            if isinstance(event, TrainStarted):
                self._history.begin_training(event.first_step)
                self._first_step = event.first_step
            elif isinstance(event, StepDone) and self._first_step is not None:
                if event.step > self._first_step:
                    self._stepped_in = attempt
            elif isinstance(event, CheckpointCommitted):
                self._history.add_commit()
                self._last_commit = event
            self._events.append(event)

    def command(self, known: Command) -> Command | None:
        """What the driver asks for, if the rank does not know it yet."""
        return self._command if self._command != known else None

    def decision(self, step: int) -> Command | None:
        """What the driver asks for after the evaluation at a step, once it has decided."""
        return self._command if self._decided_step >= step or self._phase is not Phase.OPEN else None

    @property
    def attempt(self) -> int:
        """The last start of the workers, 0 for the first; -1 before it."""
        return self._attempt

    def has_stepped_after(self, attempt: int) -> bool:
        """Whether a later attempt has done a training step."""
        return self._stepped_in > attempt

    @property
    def turn(self) -> tuple[Phase, int, bool]:
        """Changes when those that wait have to look again: the group has ended, or its workers will be started anew.

        In a large group a failure is followed by one of each rank, which changes nothing more; each wait that ends for
        nothing, of each rank, for each of them, would keep the control actor busy for minutes.
        """
        return self._phase, self._attempt, self._will_restart

    def is_over(self, attempt: int) -> bool | None:
        """True when the ranks of an attempt must end, even those that are stuck."""
        is_over = self._phase is Phase.FATAL or attempt == self._hung_attempt or attempt != self._attempt
        return True if is_over else None

    def watch(self, process: RankProcess, attempt: int, known: int) -> Watch | None:
        """What is asked of a rank beside its task, if it does not know it yet.

        Args:
            process: The rank's.
            attempt: Its attempt.
            known: Number of the last request to say where it is that it answered.
        """
        if self.is_over(attempt):
            return Watch(is_over=True)
        self._places.add(process)
        return Watch(request=self._places.request) if self._places.request != known else None

    def tell_place(self, attempt: int, request: int, place: Place) -> None:
        """A rank: where it is.

        Args:
            attempt: Its attempt.
            request: What it answers.
            place: The answer.
        """
        if attempt == self._attempt:
            self._places.tell(request, place)

    def store_final_weights(self, weights: Shipped) -> None:
        """Rank 0: leave weights for the driver."""
        self._final_weights = weights

    def leave(self) -> None:
        """Rank 0: the workers leave nothing more here."""
        self._has_left = True

    def move(self, attempt: int, step: int | None) -> None:
        """A rank, after all of them have saved: the ranks of an attempt leave, to go on in other workers.

        Args:
            attempt: Start of the workers that the rank belongs to.
            step: Optimizer steps that are done.
        """
        if attempt != self._attempt or self._phase is not Phase.OPEN or self._will_restart:
            return
        if not self._has_driver:
            self._end(DRIVER_ENDED)  # They have saved, and nobody would find another room for them.
            return
        self._history.add_move()
        self._will_restart = True
        self._needs_room = True
        done = "Nothing to save yet" if not step else f"Saved step {step}"
        text = f"{done}: the workers leave, and others go on from there (not counted as a failure)."
        self._events.append(Note(text=text, level="warning", kind="move"))

    # ---- failures -----------------------------------------------------------------------------------------------

    def fail(self, record: FailureRecord) -> Answer:
        """A rank failed: does it return, or raise so that Ray starts the workers again?"""
        if self._phase is Phase.OPEN and record.attempt is None:
            self._attempt_without_join()
        if record.attempt is None or record.attempt == self._attempt:
            self._failures.append(record)
            if self._phase is Phase.OPEN:
                self._settle(record)
        return Answer.RETRY if self._phase is Phase.OPEN else Answer.STOP

    def report_deaths(self, deaths: WorkerDeaths) -> bool:
        """Ray Train, once for each failed attempt: are the workers to be started again?

        Args:
            deaths: Processes that ended; none if all that Ray saw is exceptions of ranks.
        """
        if self._phase is not Phase.OPEN:
            return False
        self._attempt_without_join()
        if self._command is Command.MOVE and deaths.causes:
            deaths = replace(deaths, was_preempted=True)  # The node that was to be left has gone.
        self._deaths = deaths
        if self._will_restart:
            self._history.add_failure(deaths)
        else:
            self._settle(deaths)
        return self._phase is Phase.OPEN

    def room(self) -> object | None:
        """Where workers are to run; None while they have left one room and there is no other yet."""
        return None if self._needs_room else self._room

    # ---- inside -------------------------------------------------------------------------------------------------

    def _is_idle(self) -> bool:
        return not self._tasks or self._result is not None

    def _begin_history(self, num_restarts: int = 0) -> None:
        """Each call may use all of its restarts, and each wait between two calls too."""
        self._history = History(max_failures=self._max_failures, num_restarts=num_restarts)
        if self._attempt >= 0 and not self._will_restart:
            self._history.begin_attempt()

    def _begin_attempt(self) -> None:
        self._attempt += 1
        self._first_task_of_attempt = len(self._tasks) if self._is_idle() else len(self._tasks) - 1
        self._next_of_rank.clear()
        self._places.begin_attempt()
        self._failures = []
        self._deaths = None
        self._first_step = None
        self._will_restart = False
        if self._command is Command.MOVE:
            self._command = Command.NONE  # These are the workers that were moved.
        self._history.begin_attempt()
        if self._is_idle():
            self._idle_since = self._clock()

    def _attempt_without_join(self) -> None:
        """Count a start of the workers in which a rank failed before rank 0 could join."""
        if self._attempt < 0 or self._deaths is not None:
            self._begin_attempt()

    def _settle(self, record: FailureRecord | WorkerDeaths) -> None:
        decision = decide(record, self._history)
        self._history.add_failure(record)
        if decision.action is Action.END:
            self._end(decision.reason)
        elif not self._has_driver:
            self._end(DRIVER_ENDED)  # What workers need to start is gone with it.
        elif decision.action is Action.RESTART and not self._will_restart:
            self._will_restart = True
            self._needs_room |= self._command is Command.MOVE
            self._events.append(Note(text=self._restart_note(record), level="warning", kind="restart"))

    def _end(self, reason: str | None) -> None:
        self._phase, self._reason = Phase.FATAL, reason

    def _restart_note(self, record: FailureRecord | WorkerDeaths) -> str:
        number = f"restart {self._history.num_restarts + 1}"
        if self._max_failures >= 0:
            number += f" of at most {self._max_failures}"
        if isinstance(record, FailureRecord):
            step = f" after step {record.step}" if record.step is not None else ""
            what = f"Rank {record.rank} failed{step} ({record.type_name}: {record.first_line[:160]})"
        elif record.hang is not None:
            what = record.hang.rstrip(".")
        elif record.was_preempted:
            what, number = "A node was preempted", "not counted as a failure"
        elif record.causes:
            rank, cause = min(record.causes.items())
            what = f"The worker of rank {rank} died without an exception ({cause[:160].rstrip('.')})"
        elif waited_in_vain := timed_out(self._failures):
            what = waited_in_vain
        else:
            what = "A worker died without an exception"
        return f"{what}. Starting the workers again ({number})."
