"""One call of a worker group: a task is given to the workers and followed until it has a result or has failed for good.

Meanwhile the driver looks after the workers: it passes on Ctrl-C, notices that they stand still, that their room is
lost or that there is a better one, and makes the whole group anew when one of its helper processes dies
(``driver/helper_deaths.py``).
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import ray.exceptions

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.control.state import Phase, Update
from raytrainer.driver.capacity import Allocation
from raytrainer.driver.failure_message import Failure, training_failed
from raytrainer.driver.group_start import StartedGroup
from raytrainer.driver.hangs import Hangs
from raytrainer.driver.helper_deaths import (
    HelperDiedError,
    Restarts,
    check_controller,
    control_lost,
    lost_helper,
)
from raytrainer.driver.updates import Updates
from raytrainer.errors import GroupClosedError, RayTrainerError, TrainingFailed
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.interrupts import interrupts
from raytrainer.storage.locations import below
from raytrainer.telemetry.events import Note
from raytrainer.wire.messages import Task
from raytrainer.wire.spec import receive

MORE_RECORDS_S = 2.0
"""After a failure ended the run: how long other ranks may report failures that came before it, or because of it."""
LOOK_S = 0.1
"""How often it is looked whether they have."""
END_TIMEOUT_S = 30.0
"""How long Ray Train's run may take to end with its workers."""
START_NOTE_S = 45.0
"""After that time without workers, the user reads that they are still starting."""

STOP_NOTE = "stopping after a checkpoint; press Ctrl-C again to stop now"


class Group(Protocol):
    """What a call needs of its group."""

    got_sigterm: bool
    hub_token: str | None

    @property
    def present(self) -> StartedGroup:
        """The processes that are there now."""
        ...

    @property
    def updates(self) -> Updates:
        """Their news."""
        ...

    def start_again(self, before: StartedGroup) -> None:
        """Start other processes in place of some that have ended."""
        ...

    def kill(self) -> None:
        """End all of them now."""
        ...


class GroupCall:
    """One call.

    Args:
        group: The group, which has no other one.
        args: Of the trainer.
        timeout_s: How long it may take [s]; None for no limit.
        is_first: The workers may still be starting.
    """

    def __init__(
        self, group: Group, args: TrainingArguments, *, timeout_s: float | None, is_first: bool
    ) -> None:
        self._group = group
        self._args = args
        self._timeout_s = timeout_s
        self._is_first = is_first
        self._restarts = Restarts(args.max_failures)
        self._wants_stop = threading.Event()

    def run(self, task: Task) -> Any:
        """Give the workers a task until it has a result; after the death of a helper it is given to other workers.

        Args:
            task: The task.

        Raises:
            GroupClosedError: If the workers have left.
            TrainingFailed: If the task failed for good; the group has ended.
        """
        with interrupts(self._wants_stop.set, sigterm_only_asks=self._args.enable_jit_checkpoint) as heard:
            while True:
                started = self._group.present
                try:
                    started.control.set_hub_token(self._group.hub_token)
                    _submit(started, task)
                    for update in self._follow(started, task.method):
                        self._group.got_sigterm = heard.sigterm
                        if update is not None and update.result is not None:
                            return receive(update.result.payload)
                    break
                except HelperDiedError as error:
                    death = error
                except (ray.exceptions.ActorDiedError, ray.exceptions.GetTimeoutError) as error:
                    death = control_lost(error)
                if started.raylet.has_ended:  # They died with it.
                    break
                task = self._make_anew(started, task, death)
        self._group.kill()
        if started.raylet.has_ended:
            raise started.raylet.lost(self._restarts.progress.last_commit)
        raise TrainingFailed(
            f"{task.method}() gave no result within {self._timeout_s:g} s, so its workers were ended."
        )

    def _follow(self, started: StartedGroup, method: str) -> Iterator[Update | None]:
        """What is new of a task, while the workers are looked after."""
        updates = self._group.updates
        has_asked = False
        hangs = Hangs(
            self._args.hang_warning_s,
            self._args.hang_timeout_s,
            started.control,
            log_dir=self._log_dir,
            show=updates.show,
        )
        if not self._is_first:
            hangs.begin(started.control.snapshot())
        note_at_s: float | None = time.monotonic() + START_NOTE_S
        for update in updates.follow(self._timeout_s):
            yield update
            if update is not None:
                self._restarts.follow(update)
                hangs.follow(update)
                if update.phase is not Phase.OPEN or started.fit.is_over:
                    check_controller(started.fit, update)
                    raise self._failure(started, method, update)
                started.moving.follow(update)
            if self._wants_stop.is_set() and not has_asked:
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

    def _make_anew(self, before: StartedGroup, task: Task, death: HelperDiedError) -> Task:
        """Start all processes of the group again, after one that is no worker has died.

        Args:
            before: The group; what is left of it is ended.
            task: What it was doing.
            death: What died.

        Returns:
            The task, which goes on from the newest checkpoint.

        Raises:
            TrainingFailed: If it is not allowed, or there is no room.
        """
        restarts = self._restarts
        reason = restarts.why_not()
        if reason is None:
            task = restarts.restarted(task)
            self._group.updates.show(Note(text=restarts.announcement(death), level="warning", kind="restart"))
            _end_remains(before)
            try:
                self._group.start_again(before)
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
        self._group.kill()
        raise training_failed(failure)

    def _failure(self, started: StartedGroup, method: str, update: Update) -> RayTrainerError:
        """The exception for a task whose group has ended; ends what is left of the group."""
        if update.phase is Phase.FATAL:
            update = _with_all_records(started, update)
            if method != "train":
                started.control.final_weights(END_TIMEOUT_S)  # rank 0 may leave what the task did not change
        else:
            started.fit.wait(END_TIMEOUT_S)
            with contextlib.suppress(ray.exceptions.RayError):
                update = started.control.snapshot()
        self._restarts.follow(update)
        failure = Failure(
            records=update.failures,
            deaths=update.deaths.causes if update.deaths is not None else {},
            event=update.deaths.hang if update.deaths is not None else None,
            method=method,
            reason=update.reason,
            fit_error=started.fit.error,
            last_checkpoint=self._restarts.progress.last_commit,
            log_dir=self._log_dir,
            num_attempts=max(1, self._restarts.progress.num_attempts),
        )
        self._group.kill()
        return training_failed(failure)

    @property
    def _log_dir(self) -> str | None:
        output_dir = self._args.output_dir
        return below(output_dir, "logs") if output_dir else None


def _submit(started: StartedGroup, task: Task) -> None:
    if started.fit.is_over and (death := lost_helper(started.fit, started.control)) is not None:
        raise death
    try:
        is_taken = started.control.submit(task)
    except ray.exceptions.ActorDiedError:
        raise
    except ray.exceptions.RayError as error:
        raise GroupClosedError("The control actor does not answer.") from error
    if not is_taken:
        raise GroupClosedError("The workers have left.")


def _end_remains(started: StartedGroup) -> None:
    """End the controller, with it the workers, the control actor and the room, before others take their place."""
    started.fit.kill()
    started.fit.wait(END_TIMEOUT_S)
    started.fit.remove_storage()
    started.end()


def _with_all_records(started: StartedGroup, update: Update) -> Update:
    """Wait for what the other ranks report: they fail within moments, and the first to report need not be the cause."""
    ends_s = time.monotonic() + MORE_RECORDS_S
    num_workers = started.reservation.allocation.num_workers
    with contextlib.suppress(ray.exceptions.RayError):
        while time.monotonic() < ends_s and len({one.rank for one in update.failures}) < num_workers:
            time.sleep(LOOK_S)
            update = started.control.snapshot()
    return update


def _waiting_text(allocation: Allocation) -> str:
    return (
        f"{allocation.num_workers} workers have room, with {allocation.each} each, and have not begun after "
        f"{START_NOTE_S:.0f} s: their processes are still starting"
    )
