"""A standing worker group: started once, given one task after the other, ended when nobody needs it.

A call is followed in ``driver/group_call.py``, which also makes the group anew when one of its helper processes dies.
"""

from __future__ import annotations

import functools
import inspect
import threading
import uuid
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ray

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver import open_groups, ray_threads
from raytrainer.driver.capacity import Allocation
from raytrainer.driver.group_call import GroupCall
from raytrainer.driver.group_start import StartedGroup, absolute_output_dir, start_group
from raytrainer.driver.helper_deaths import HelperDiedError, lost_helper
from raytrainer.driver.ray_tables import runs_in_actor_or_task
from raytrainer.driver.reservation import FREED_S
from raytrainer.driver.trial_room import TrialRoom
from raytrainer.driver.updates import Updates
from raytrainer.errors import GroupClosedError, TrainingFailed
from raytrainer.runtimes import ray_calls
from raytrainer.runtimes.base import Command
from raytrainer.wire.messages import Change, NextTrainer, Task
from raytrainer.wire.preparations import Preparations
from raytrainer.wire.preparations import preparations as named_preparations
from raytrainer.wire.spec import Shipped, receive, ship, with_sources

DEFAULT_SESSION = "raytrainer.worker.session:open_session"
END_TIMEOUT_S = 30.0
"""How long workers may take to leave."""


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

    @property
    def present(self) -> StartedGroup:
        """The processes that are there now."""
        assert self._started is not None
        return self._started

    @property
    def updates(self) -> Updates:
        """Their news."""
        assert self._updates is not None
        return self._updates

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

    def start_again(self, before: StartedGroup) -> None:
        """Start other processes in place of some that have ended.

        Args:
            before: Those.

        Raises:
            ConfigurationError: As ``start``.
            PlacementError: As ``start``.
        """
        self._start(before)

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
                call = GroupCall(self, self._args, timeout_s=timeout_s, is_first=not self._has_called)
                return call.run(task)
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
        args.fork_workers,
        args.ddp_backend,
        args.ddp_timeout,
        args.full_determinism,
        args.sharding is not None and args.sharding.cpu_offload,
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
