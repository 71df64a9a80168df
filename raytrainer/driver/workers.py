"""The Ray workers of one trainer, as the driver's trainer uses them.

They are started with the first task and stay for the next one. Workers may have been restarted between two tasks, so
this file remembers which run they completed, and at which step. It also owns the progress display of a task.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raytrainer.callbacks.defaults import shown_by
from raytrainer.driver.changes_sent import ChangesSent
from raytrainer.driver.entry_points import new_run_id
from raytrainer.driver.lost_weights import refuse_lost_weights
from raytrainer.driver.metrics import RunMetrics
from raytrainer.driver.run_records import DriverRecords
from raytrainer.driver.startup_trace import StartupTrace
from raytrainer.driver.taking_back import Taken, take_back
from raytrainer.driver.traced_calls import traced
from raytrainer.driver.traces import RunTrace
from raytrainer.driver.trial_room import TrialRoom
from raytrainer.driver.worker_group import WorkerGroup
from raytrainer.errors import GroupClosedError
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.interrupts import end_as_told
from raytrainer.telemetry.events import Evaluated, Note, WaitBegun
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.captured_state import Change, captured_changes, warning
from raytrainer.wire.hub_token import token_for_uploads
from raytrainer.worker.returned import Returned
from raytrainer.worker.task_context import TaskContext

if TYPE_CHECKING:
    from raytrainer.telemetry.console import Renderer

logger = logging.getLogger(__name__)


class Workers:
    """Gives tasks to a worker group, and starts a new one when there is none.

    Args:
        room: Where workers run within a trial of Ray Tune.
        decide: Decides after each evaluation of a training run how it goes on; called in the thread that called
            ``train()``. By default it goes on at once.
        open_renderer: Makes what shows the progress of a task; the terminal's by default.
    """

    def __init__(
        self,
        *,
        room: TrialRoom | None = None,
        decide: Callable[[Evaluated], Command] | None = None,
        open_renderer: Callable[[TrainerProtocol], Renderer] | None = None,
    ) -> None:
        self._room = room
        self._open_renderer = open_renderer or _terminal
        self._decide = decide
        self._group: WorkerGroup | None = None
        self._sent: ChangesSent | None = None
        """What the workers of this group have of the trainer."""
        self._renderer: Renderer | None = None
        self._metrics: RunMetrics | None = None
        self._records: DriverRecords | None = None
        self._startup: StartupTrace | None = None
        self._trace: RunTrace | None = None
        self._run_id = ""
        """Names the call."""
        self._trained: TaskContext | None = None
        """The last run that the workers of this group completed."""
        self._told: set[str] = set()
        """What stayed on the workers, as the user was told."""
        self._told_captured: set[Change] = set()
        """What changes on the workers alone, as the user was told."""

    def call(
        self, trainer: TrainerProtocol, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Run a method of the trainer on the workers, and take back what it changed.

        Args:
            trainer: The driver's trainer.
            method: Name of the method.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            ConfigurationError: If the trainer was changed in a way that the workers cannot take over.
            TrainingFailed: If the workers failed for good.
            KeyboardInterrupt: If the user interrupted twice.
            SystemExit: If this process got a SIGTERM; what the workers did until then was taken back.
        """
        renderer, metrics = self._open_renderer(trainer), RunMetrics(trainer.args)
        has_page = method == "train" and self._decide is None
        records = DriverRecords(trainer.args, lambda: self._run_id, has_page=has_page)
        self._renderer, self._metrics, self._records = renderer, metrics, records
        self._startup = StartupTrace(trainer.args)
        try:
            with (
                metrics,
                traced(trainer.args, method, self._show, run_id=lambda: self._run_id) as self._trace,
            ):
                return self._call(trainer, method, args, kwargs)
        except BaseException as error:
            records.failed(error)
            raise
        finally:
            self._trace = None
            if (note := self._startup.close()) is not None:
                renderer.handle(note)
            renderer.close()
            records.close()

    def _call(
        self, trainer: TrainerProtocol, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        for _ in range(2):
            group, sent = self._open_group(trainer, method)
            group.hub_token = token_for_uploads(trainer.args)
            self._tell_of_captured(trainer)
            self._run_id = new_run_id()
            context = self._context(self._run_id)
            try:
                returned: Returned = group.call(
                    method,
                    args,
                    kwargs,
                    task_id=context.run_id,
                    context=context,
                    version=sent.version,
                    changes=sent.changes,
                )
            except GroupClosedError:
                # They left because no task came; their weights go to the next group.
                self._forget_group(trainer)
                continue
            taken = take_back(trainer, sent.callbacks(), returned, method)
            sent.note_returned(trainer, taken.paths, returned)
            if method == "train":
                self._note_training(trainer, context.run_id)
            if taken.refers_to_model and trainer._process.weights_are_on_workers:
                trainer._fetch_weights()
            self._tell(taken, method)
            if group.got_sigterm:
                end_as_told(trainer.args.sigterm_exit_code)
            return taken.value
        raise GroupClosedError("The workers left twice while they were given a task. Call again.")

    def _tell(self, taken: Taken, method: str) -> None:
        """One warning about what stayed on the workers, until it is something else."""
        if not taken.left_out.keys() <= self._told:
            self._told |= taken.left_out.keys()
            self._show(Note(text=taken.warning(method), level="warning"))

    def _context(self, run_id: str) -> TaskContext:
        done = self._trained
        if done is None:
            return TaskContext(run_id=run_id)
        return TaskContext(
            run_id=run_id,
            trained_run_id=done.trained_run_id,
            trained_step=done.trained_step,
            best_checkpoint=done.best_checkpoint,
        )

    def _note_training(self, trainer: TrainerProtocol, run_id: str) -> None:
        state = trainer.state
        trainer._train_batch_size = state.train_batch_size or trainer._train_batch_size
        loads_best = trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None
        self._trained = TaskContext(
            run_id=run_id,
            trained_run_id=run_id,
            trained_step=state.global_step,
            best_checkpoint=state.best_model_checkpoint if loads_best else None,
        )
        trainer._process.weights_are_on_workers = True
        trainer._process.weights_are_lost = False

    def _open_group(self, trainer: TrainerProtocol, method: str) -> tuple[WorkerGroup, ChangesSent]:
        """The workers, which know what has changed since they were given the trainer; or new ones."""
        if self._group is not None and not self._group.is_open:
            self._forget_group(trainer)
        if self._group is not None and self._sent is not None:
            reasons = self._sent.find_changes(
                trainer, num_workers=self._group.allocation.num_workers, builds_model=method == "train"
            )
            if not reasons:
                if self._sent.has_new_weights:
                    self._trained = None  # the driver has newer ones
                return self._group, self._sent
            self._show(Note(text=_restart_note(reasons), level="warning"))
            self.end(trainer)
        if trainer._process.weights_are_on_workers:
            trainer._fetch_weights()
        refuse_lost_weights(trainer, method)
        self._trained = None
        self._show(WaitBegun(what="starting the workers"))
        self._group = WorkerGroup(
            trainer, trainer.args, self._show, room=self._room, decides=self._decide is not None
        )
        self._group.hub_token = token_for_uploads(trainer.args)
        self._group.start()
        self._sent = ChangesSent(trainer)  # while the workers start
        return self._group, self._sent

    def _tell_of_captured(self, trainer: TrainerProtocol) -> None:
        """Say once which variables of the script will change on the workers alone."""
        functions = (
            trainer.compute_loss_func,
            trainer.compute_metrics,
            trainer.preprocess_logits_for_metrics,
            trainer.data_collator,
            trainer.model_init,
        )
        callbacks: list[object] = trainer.callback_handler.callbacks
        found = captured_changes([trainer, *callbacks, *(one for one in functions if one is not None)])
        new = [change for change in found if change not in self._told_captured]
        if new:
            self._told_captured.update(new)
            self._show(Note(text=warning(new), level="warning"))

    def note_model(self, trainer: TrainerProtocol) -> None:
        """The driver's model was loaded, or has the weights of the workers."""
        if self._sent is not None:
            self._sent.note_model(trainer)

    def _show(self, event: object) -> None:
        if self._records is not None:
            event = self._records.handle(event)
        if self._renderer is not None:
            self._renderer.handle(event)
        if self._metrics is not None:
            self._metrics.handle(event)
        if self._startup is not None:
            self._startup.handle(event)
        if self._trace is not None:
            self._trace.handle(event)
        if self._decide is not None and isinstance(event, Evaluated) and self._group is not None:
            self._group.decide(event.step, self._decide(event))

    def hand_over(self, trainer: TrainerProtocol) -> None:
        """Give the workers to another trainer, if its arguments ask for workers of the same kind; else end them.

        What they hold of the trainer before is lost.
        """
        trainer._process.workers = self
        self._trained = None
        if self._group is None:
            return
        if self._group.is_open and self._group.suits(trainer.args):
            self._group.hand_over(trainer, trainer.args)
            self._sent = ChangesSent(trainer)
        else:
            self._group.kill()
            self._group = self._sent = None

    def ask(self, command: Command) -> None:
        """Ask something of the task that is running; any thread."""
        if self._group is not None:
            self._group.ask(command)

    def _forget_group(self, trainer: TrainerProtocol) -> None:
        """Forget a group that has ended; the weights that it left become the trainer's."""
        if trainer._process.weights_are_on_workers:
            trainer._fetch_weights()
        if self._group is not None:
            if self._sent is not None:  # they had started
                self._show(Note(text="the workers of the last call have left; starting new ones"))
            self._group.kill()
        self._group = self._sent = None
        self._trained = None

    def weights(self) -> dict[str, Any] | None:
        """The weights that the workers hold, or held when they left; None if they were lost with them."""
        group = self._group
        if group is None:
            return None
        if group.is_open and not group.is_busy:
            try:
                context = self._context(new_run_id())
                sent = self._sent
                return group.call(
                    "_export_weights",
                    task_id=context.run_id,
                    context=context,
                    version=sent.next_version() if sent is not None else 0,
                    changes=sent.changes if sent is not None else (),
                )
            except GroupClosedError:
                pass
        return group.final_weights()

    @property
    def trained(self) -> TaskContext | None:
        """The last run that the workers of this group completed."""
        return self._trained

    def end(self, trainer: TrainerProtocol) -> None:
        """End the workers; their weights come to the driver first."""
        if self._group is None:
            return
        if trainer._process.weights_are_on_workers:
            trainer._fetch_weights()
        self._group.end()
        self._group = self._sent = None
        self._trained = None


def _restart_note(reasons: list[str]) -> str:
    shown = ", ".join(reasons[:4]) + (f" and {len(reasons) - 4} more" if len(reasons) > 4 else "")
    return (
        f"{shown} changed since the workers were started, and counts only when they start: starting them again. The "
        "weights are kept; a new optimizer begins."
    )


def _terminal(trainer: TrainerProtocol) -> Renderer:
    from raytrainer.telemetry.console import Renderer  # with rich, for who shows something

    return Renderer(shown=lambda: shown_by(trainer.callback_handler.callbacks))
