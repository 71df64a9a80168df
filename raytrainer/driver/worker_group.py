"""A standing worker group: started once, given one task after the other, ended when nobody needs it.

When one of its helper processes dies, the group is made anew within the call that notices
(``driver/helper_deaths.py``).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
import time
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ray
import ray.exceptions

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.control.state import Phase, Update
from raytrainer.driver import open_groups, ray_threads
from raytrainer.driver.capacity import Allocation
from raytrainer.driver.failure_message import Failure, training_failed
from raytrainer.driver.group_start import StartedGroup, absolute_output_dir, start_group
from raytrainer.driver.hangs import Hangs
from raytrainer.driver.helper_deaths import (
    HelperDiedError,
    Restarts,
    check_controller,
    control_lost,
    lost_helper,
)
from raytrainer.driver.ray_tables import runs_in_actor_or_task
from raytrainer.driver.reservation import FREED_S
from raytrainer.driver.trial_room import TrialRoom
from raytrainer.driver.updates import Updates
from raytrainer.errors import GroupClosedError, RayTrainerError, TrainingFailed
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.interrupts import interrupts
from raytrainer.storage.locations import below
from raytrainer.telemetry.events import Note
from raytrainer.wire.messages import Change, NextTrainer, Task
from raytrainer.wire.preparations import Preparations
from raytrainer.wire.preparations import preparations as named_preparations
from raytrainer.wire.spec import Shipped, receive, ship, with_sources

DEFAULT_SESSION = "raytrainer.worker.session:open_session"
MORE_RECORDS_S = 2.0
"""After a failure ended the run: how long other ranks may report failures that came before it, or because of it."""
LOOK_S = 0.1
"""How often it is looked whether they have."""
END_TIMEOUT_S = 30.0
"""How long workers may take to leave."""
START_NOTE_S = 45.0
"""After that time without workers, the user reads that they are still starting."""

STOP_NOTE = "stopping after a checkpoint; press Ctrl-C again to stop now"


class WorkerGroup:
    """The workers of one trainer.

    Args:
        trainer: Shipped to the workers once. It is pickled here, so that a trainer that cannot be shipped is refused
            before Ray starts.
        args: How many workers with what, and how they are restarted.
        on_event: Gets the workers' events, in the thread that calls. A method does not keep its object alive: that may
            refer to the trainer, with which the group ends.
        open_session: ``module:function`` that sets the trainer up on a worker: ``(trainer, runtime) -> session``.
        preparations: What a worker calls before it unpacks the trainer, and when it has set it up; by default what was
            named in this process.
        room: Where workers run within a trial of Ray Tune; by default they get a placement group of their own.
        decides: After each evaluation of a task the workers wait for ``decide``.

    Raises:
        ConfigurationError: If the trainer cannot be shipped.
    """

    def __init__(
        self,
        trainer: object,
        args: TrainingArguments,
        on_event: Callable[[object], None],
        *,
        open_session: str = DEFAULT_SESSION,
        preparations: Preparations | None = None,
        room: TrialRoom | None = None,
        decides: bool = False,
    ) -> None:
        self._args = args
        self._on_event = _not_keeping(on_event)
        self._open_session = open_session
        self._preparations = preparations if preparations is not None else named_preparations()
        self._room = room
        self._decides = decides
        self._shipped: Shipped | None = ship(trainer)
        self._started: StartedGroup | None = None
        self._num_starts = 0
        self._updates: Updates | None = None
        self._lock = threading.Lock()
        self._is_busy = False
        self._is_ended = False
        self._has_called = False
        self.hub_token: str | None = None
        """What rank 0 uploads with, from the next start or task on; None if it uploads nothing."""
        self.got_sigterm = False
        """This process was told to end during the last task."""
        self._is_given_back = threading.Event()
        self._final_weights: Shipped | None = None
        """What the workers left, once their control actor has ended."""
        self._next_trainer: NextTrainer | None = None
        self._finalizer = open_groups.end_with(trainer, functools.partial(_kill_in_thread, self))

    @property
    def is_open(self) -> bool:
        """The workers have started, or are starting, and take tasks; or would be made anew for one."""
        started = self._started
        if started is None or self._is_ended or not self._reaches_ray:
            return False
        return not started.fit.is_over or self._lost_helper(started) is not None

    @property
    def _reaches_ray(self) -> bool:
        """Calls of Ray are answered, and do not end this process."""
        return self._started is not None and ray.is_initialized() and not self._started.raylet.has_ended

    @property
    def is_busy(self) -> bool:
        """A task is running."""
        return self._is_busy

    @property
    def allocation(self) -> Allocation:
        """What the workers have."""
        assert self._started is not None
        return self._started.reservation.allocation

    # ---- life ---------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Join or start Ray, wait for room, and begin to start the workers. Does not wait for them.

        Raises:
            ConfigurationError: If no Ray answers, or the cluster is too small.
            PlacementError: If others hold the room for too long.
        """
        assert self._shipped is not None, "A group is started once."
        open_groups.add(self)
        shipped, self._shipped = self._shipped, None
        self._start(shipped)

    def _start(self, trainer: Shipped | StartedGroup) -> None:
        self._num_starts += 1
        self._started = start_group(
            self._args,
            trainer,
            open_session=self._open_session,
            preparations=self._preparations,
            make_room=lambda: open_groups.end_idle(self),
            show=self._on_event,
            room=self._room,
            on_end=functools.partial(self._note_end, self._num_starts),
        )
        # It is there when rank 0 asks: a worker takes seconds to start.
        self._started.control.set_hub_token(self.hub_token)
        self._updates = Updates(self._started, self._on_event)

    def _note_end(self, number: int) -> None:
        """Ray Train's run has ended, of the group as it was started the ``number``-th time."""
        if number == self._num_starts:
            self._forget()

    def _lost_helper(self, started: StartedGroup) -> HelperDiedError | None:
        return lost_helper(started.fit, started.control) if ray.is_initialized() else None

    def end_if_idle(self) -> None:
        """Let workers leave that have had a task and have none now. Another thread may be about to give them one."""
        started = self._started
        if started is None or self._is_busy or not self._has_called:
            return
        # A task that comes later is refused, and its trainer starts other workers.
        if started.control.close() or not self._is_busy:
            self.end()

    def suits(self, args: TrainingArguments) -> bool:
        """Whether a trainer with these arguments would get workers like these."""
        return _kind_of_workers(args) == _kind_of_workers(self._args)

    def hand_over(self, trainer: object, args: TrainingArguments) -> None:
        """Let the next tasks run on another trainer, which the same workers set up when they come to it.

        Args:
            trainer: The trainer; the group now ends with it.
            args: Its arguments.

        Raises:
            ConfigurationError: If the trainer cannot be shipped.
        """
        shipped = ray_calls.put(self._for_workers(ship(trainer)))
        number = 1 if self._next_trainer is None else self._next_trainer.number + 1
        self._next_trainer = NextTrainer(
            number=number, shipped=[shipped], output_dir=absolute_output_dir(args.output_dir)
        )
        self._args = args
        self._finalizer.detach()
        self._finalizer = open_groups.end_with(trainer, functools.partial(_kill_in_thread, self))

    def end(self, *, wait: bool = True) -> None:
        """Let the workers leave their weights, and end them. Ends at once workers that are busy or stuck."""
        started = self._started
        if started is None or self._is_ended:
            self._forget()
            return
        # Workers that never came, or that are busy or stuck, have nothing to leave.
        if self._reaches_ray and started.control.close() and wait and started.control.snapshot().attempt >= 0:
            started.control.final_weights(END_TIMEOUT_S)
        # Nothing else is worth waiting for; Ray Train's own end takes seconds.
        self.kill()
        if wait and runs_in_actor_or_task():
            # It may be the last thing that happens in this process, whose end does not free the room.
            self._is_given_back.wait(FREED_S)

    def kill(self) -> None:
        """End the workers now. What they hold is lost; what they left stays with this object."""
        started = self._started
        if started is not None and not self._is_ended and self._reaches_ray:
            self._final_weights = started.control.final_weights(0.0)
            if started.fit.is_over:
                self._give_back()
            else:
                started.control.send_abandon("ended by the driver")
                started.reservation.will_be_released()
                # The actor ends after the workers, which still call it.
                started.fit.end_now(then=self._give_back)
        self._is_ended = True
        self._finalizer.detach()
        self._forget()

    def kill_at_exit(self) -> None:
        """End the workers and give their room back before this process ends.

        That of an actor stays reserved when the actor ends, until its driver ends too.
        """
        self.kill()
        if self._started is not None:
            if self._started.is_one_machine:
                self._started.fit.kill()  # Its Ray ends with it, so nothing has to end in order.
            self._started.reservation.release()

    def final_weights(self, timeout_s: float = END_TIMEOUT_S) -> Any:
        """What ``session.final_weights`` returned on rank 0 when the workers left; None if they left nothing.

        Waits for workers that are leaving, but not for those that stay.
        """
        started = self._started
        if started is not None and not self._is_ended and self._reaches_ray:
            self._final_weights = started.control.final_weights(0.0 if started.fit.is_over else timeout_s)
        return receive(self._final_weights) if self._final_weights is not None else None

    def _give_back(self) -> None:
        assert self._started is not None
        self._started.end()
        self._is_given_back.set()
        open_groups.remove(self)

    def _forget(self) -> None:
        started = self._started
        if started is not None:
            started.fit.remove_storage()
            if started.fit.is_over:
                started.reservation.release()
        if started is None or started.fit.is_over:
            open_groups.remove(self)

    # ---- calls --------------------------------------------------------------------------------------------------

    def call(
        self,
        method: str,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        *,
        task_id: str | None = None,
        context: object | None = None,
        version: int = 0,
        changes: Sequence[Change] = (),
        timeout_s: float | None = None,
    ) -> Any:
        """Run a task on all ranks and return what rank 0 returned.

        In the main thread, the first Ctrl-C (or SIGTERM) asks the workers to save and stop, and the call returns
        what they return; the second one ends the workers and raises ``KeyboardInterrupt``.

        Args:
            method: Passed to ``session.run`` on each rank.
            args: Its arguments.
            kwargs: Its keyword arguments.
            task_id: Names the task over all of its attempts; the runtime's ``run_id``. Made up by default.
            context: Passed to ``session.run`` as ``context=``, unless it is None.
            version: Of the trainer that the task is for.
            changes: All that the trainer that was sent at first needs to become it.
            timeout_s: Ends the group when there is no result in time [s].

        Raises:
            ConfigurationError: If the arguments cannot be shipped.
            GroupClosedError: If the workers have left.
            PlacementError: If a node was lost, and nothing takes its place; the group has ended.
            TrainingFailed: If the task failed for good; the group has ended.
        """
        started = self._started
        if started is None or (not self.is_open and (self._has_called or started.fit.error is None)):
            raise GroupClosedError("The workers have left.")
        with self._lock:
            self._is_busy = True
            try:
                task = Task(
                    task_id=task_id or uuid.uuid4().hex[:12],
                    method=method,
                    payload=[
                        ray_calls.put(self._for_workers(ship((args, kwargs or {}, context), "arguments")))
                    ],
                    version=version,
                    changes=list(changes),
                    is_decided_by_driver=self._decides,
                    trainer=self._next_trainer,
                )
                return self._run(task, timeout_s)
            except BaseException as error:
                # Nobody waits for the task any more, so the workers must not go on with it.
                if not isinstance(error, GroupClosedError | TrainingFailed) or self._is_ended:
                    self.kill()
                raise
            finally:
                self._is_busy = False
                self._has_called = True

    def ask(self, command: Command) -> None:
        """Ask something of the running task; any thread."""
        if self._started is not None:
            self._started.control.send_command(command)

    def decide(self, step: int, command: Command) -> None:
        """Let the running task go on from its evaluation at a step, or ask something of it first."""
        if self._started is not None:
            self._started.control.decide(step, command)

    def _for_workers(self, shipped: Shipped) -> Shipped:
        """On several machines, what workers import from the driver's travels along."""
        is_here = self._started is None or self._started.is_one_machine
        return shipped if is_here else with_sources(shipped)

    def _submit(self, started: StartedGroup, task: Task) -> None:
        if started.fit.is_over and (death := self._lost_helper(started)) is not None:
            raise death
        try:
            started.control.set_hub_token(self.hub_token)
            is_taken = started.control.submit(task)
        except ray.exceptions.ActorDiedError:
            raise
        except ray.exceptions.RayError as error:
            raise GroupClosedError("The control actor does not answer.") from error
        if not is_taken:
            raise GroupClosedError("The workers have left.")

    def _run(self, task: Task, timeout_s: float | None) -> Any:
        """Give the workers a task until it has a result; after the death of a helper it is given to other workers."""
        restarts = Restarts(self._args.max_failures)
        wants_stop = threading.Event()
        with interrupts(wants_stop.set, sigterm_only_asks=self._args.enable_jit_checkpoint) as heard:
            while True:
                started = self._started
                assert started is not None
                try:
                    self._submit(started, task)
                    for update in self._follow(started, task.method, restarts, wants_stop, timeout_s):
                        self.got_sigterm = heard.sigterm
                        if update is not None and update.result is not None:
                            return receive(update.result.payload)
                    break
                except HelperDiedError as error:
                    death = error
                except (ray.exceptions.ActorDiedError, ray.exceptions.GetTimeoutError) as error:
                    death = control_lost(error)
                if started.raylet.has_ended:  # They died with it.
                    break
                task = self._make_anew(started, task, death, restarts)
        self.kill()
        if started.raylet.has_ended:
            raise started.raylet.lost(restarts.progress.last_commit)
        raise TrainingFailed(
            f"{task.method}() gave no result within {timeout_s:g} s, so its workers were ended."
        )

    def _follow(
        self,
        started: StartedGroup,
        method: str,
        restarts: Restarts,
        wants_stop: threading.Event,
        timeout_s: float | None,
    ) -> Iterator[Update | None]:
        """What is new of a task, while the workers are looked after."""
        updates = self._updates
        assert updates is not None
        has_asked = False
        hangs = Hangs(
            self._args.hang_warning_s,
            self._args.hang_timeout_s,
            started.control,
            log_dir=self._log_dir,
            show=updates.show,
        )
        if self._has_called:
            hangs.begin(started.control.snapshot())
        note_at_s: float | None = time.monotonic() + START_NOTE_S
        for update in updates.follow(timeout_s):
            yield update
            if update is not None:
                restarts.follow(update)
                hangs.follow(update)
                if update.phase is not Phase.OPEN or started.fit.is_over:
                    check_controller(started.fit, update)
                    raise self._failure(started, method, update, restarts)
                started.moving.follow(update)
            if wants_stop.is_set() and not has_asked:
                has_asked = True
                started.control.send_command(Command.STOP_AFTER_SAVE)
                updates.show(Note(text=STOP_NOTE, level="warning"))
            hangs.look()
            started.moving.look()
            if started.lost_room is not None:
                started.lost_room.look()
            if note_at_s is not None and time.monotonic() > note_at_s:
                note_at_s = None
                if started.control.snapshot().attempt < 0:
                    updates.show(Note(text=_waiting_text(started.reservation.allocation), level="warning"))

    def _make_anew(
        self, before: StartedGroup, task: Task, death: HelperDiedError, restarts: Restarts
    ) -> Task:
        """Start all processes of the group again, after one that is no worker has died.

        Args:
            before: The group; what is left of it is ended.
            task: What it was doing.
            death: What died.
            restarts: Whether that is allowed.

        Returns:
            The task, which goes on from the newest checkpoint.

        Raises:
            TrainingFailed: If it is not allowed, or there is no room.
        """
        reason = restarts.why_not()
        if reason is None:
            task = restarts.restarted(task)
            assert self._updates is not None
            self._updates.show(Note(text=restarts.announcement(death), level="warning"))
            self._end_remains(before)
            try:
                self._start(before)
            except (RayTrainerError, ray.exceptions.RayError) as error:
                reason = f"the workers could not be started again: {error}"
            else:
                return task
        failure = Failure(
            records=[],
            event=f"{death}.",
            method=task.method,
            reason=reason,
            last_checkpoint=restarts.progress.last_commit,
            log_dir=self._log_dir,
            num_attempts=max(1, restarts.progress.num_attempts),
        )
        self.kill()
        raise training_failed(failure)

    def _end_remains(self, started: StartedGroup) -> None:
        """End the controller, with it the workers, the control actor and the room, before others take their place."""
        started.fit.kill()
        started.fit.wait(END_TIMEOUT_S)
        started.fit.remove_storage()
        started.end()

    @property
    def _log_dir(self) -> str | None:
        output_dir = self._args.output_dir
        return below(output_dir, "logs") if output_dir else None

    def _failure(
        self, started: StartedGroup, method: str, update: Update, restarts: Restarts
    ) -> RayTrainerError:
        """The exception for a task whose group has ended; ends what is left of the group."""
        if update.phase is Phase.FATAL:
            update = _with_all_records(started, update)
        else:
            started.fit.wait(END_TIMEOUT_S)
            with contextlib.suppress(ray.exceptions.RayError):
                update = started.control.snapshot()
        restarts.follow(update)
        failure = Failure(
            records=update.failures,
            deaths=update.deaths.causes if update.deaths is not None else {},
            event=update.deaths.hang if update.deaths is not None else None,
            method=method,
            reason=update.reason,
            fit_error=started.fit.error,
            last_checkpoint=restarts.progress.last_commit,
            log_dir=self._log_dir,
            num_attempts=max(1, restarts.progress.num_attempts),
        )
        self.kill()
        return training_failed(failure)


def _with_all_records(started: StartedGroup, update: Update) -> Update:
    """Wait for what the other ranks report: they fail within moments, and the first to report need not be the cause."""
    ends_s = time.monotonic() + MORE_RECORDS_S
    num_workers = started.reservation.allocation.num_workers
    with contextlib.suppress(ray.exceptions.RayError):
        while time.monotonic() < ends_s and len({one.rank for one in update.failures}) < num_workers:
            time.sleep(LOOK_S)
            update = started.control.snapshot()
    return update


def _kind_of_workers(args: TrainingArguments) -> tuple[object, ...]:
    """What is decided when workers start, and not again."""
    return (
        args.num_workers,
        args.use_gpu,
        args.use_cpu,
        args.resources_per_worker,
        args.placement_strategy,
        args.accelerator_type,
        args.label_selector,
        args.max_failures,
        args.worker_idle_timeout_s,
        args.elastic_timeout_s,
        args.ddp_backend,
        args.ddp_timeout,
        args.full_determinism,
        args.sharding is not None and args.sharding.cpu_offload,
    )


def _waiting_text(allocation: Allocation) -> str:
    return (
        f"{allocation.num_workers} workers have room, with {allocation.each} each, and have not begun after "
        f"{START_NOTE_S:.0f} s: their processes are still starting"
    )


def _not_keeping(on_event: Callable[[object], None]) -> Callable[[object], None]:
    """The same function; the same method as long as something else refers to its object."""
    if not inspect.ismethod(on_event):
        return on_event
    method = weakref.WeakMethod(on_event)

    def handle(event: object) -> None:
        found = method()
        if found is not None:
            found(event)

    return handle


def _kill_in_thread(group: WorkerGroup) -> None:
    """End a group whose trainer is gone. Does not wait: it runs wherever garbage happens to be collected."""
    ray_threads.start(group.kill, "raytrainer-end")
