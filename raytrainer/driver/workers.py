"""The Ray workers of one trainer, as the driver's trainer uses them.

They are started with the first task and stay for the next one. Workers may have been restarted between two tasks, so
this file remembers which run they completed, and at which step. It also owns the progress display of a task.
"""

# The underscore of a trainer's attribute keeps users out; the files of this package share it.

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

from raytrainer.callbacks.defaults import shown_by
from raytrainer.driver.entry_points import new_run_id
from raytrainer.driver.worker_group import WorkerGroup
from raytrainer.errors import GroupClosedError
from raytrainer.telemetry.console import Renderer
from raytrainer.worker.session import Returned, TaskContext

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments
    from raytrainer.callbacks.handler import CallbackHandler
    from raytrainer.process_state import ProcessState

logger = logging.getLogger(__name__)


class DriverTrainer(Protocol):
    """What this file needs of the driver's trainer."""

    args: TrainingArguments
    callback_handler: CallbackHandler
    _process: ProcessState

    def _fetch_weights(self) -> None: ...

    def _take_back(self, returned: Returned) -> None: ...


class Workers:
    """Gives tasks to a worker group, and starts a new one when there is none."""

    def __init__(self) -> None:
        self._group: WorkerGroup | None = None
        self._renderer: Renderer | None = None
        self._trained: TaskContext | None = None
        """The last run that the workers of this group completed."""

    def call(self, trainer: DriverTrainer, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run a method of the trainer on the workers, and take back what it changed.

        Args:
            trainer: The driver's trainer.
            method: Name of the method.
            args: Its arguments.
            kwargs: Its keyword arguments.

        Raises:
            TrainingFailed: If the workers failed for good.
            KeyboardInterrupt: If the user interrupted twice.
        """
        renderer = Renderer(shown=lambda: shown_by(trainer.callback_handler.callbacks))
        self._renderer = renderer
        try:
            returned = self._call(trainer, method, args, kwargs)
        finally:
            renderer.close()
        trainer._take_back(returned)
        return returned.value

    def _call(
        self, trainer: DriverTrainer, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Returned:
        for _ in range(2):
            group = self._open_group(trainer)
            context = self._context(new_run_id())
            try:
                returned = group.call(method, args, kwargs, task_id=context.run_id, context=context)
            except GroupClosedError:
                # They left because no task came; their weights go to the next group.
                self._forget_group(trainer)
                continue
            if method == "train":
                self._note_training(trainer, returned, context.run_id)
            return returned
        raise GroupClosedError("The workers left twice while they were given a task. Call again.")

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

    def _note_training(self, trainer: DriverTrainer, returned: Returned, run_id: str) -> None:
        state = returned.state
        assert state is not None
        loads_best = trainer.args.load_best_model_at_end and state.best_model_checkpoint is not None
        self._trained = TaskContext(
            run_id=run_id,
            trained_run_id=run_id,
            trained_step=state.global_step,
            best_checkpoint=state.best_model_checkpoint if loads_best else None,
        )
        trainer._process.weights_are_on_workers = True

    def _open_group(self, trainer: DriverTrainer) -> WorkerGroup:
        if self._group is not None and not self._group.is_open:
            self._forget_group(trainer)
        if self._group is None:
            if trainer._process.weights_are_on_workers:
                trainer._fetch_weights()
            self._trained = None
            self._group = WorkerGroup(trainer, trainer.args, self._show)
            self._group.start()
        return self._group

    def _show(self, event: object) -> None:
        if self._renderer is not None:
            self._renderer.handle(event)

    def _forget_group(self, trainer: DriverTrainer) -> None:
        """Forget a group that has ended; the weights that it left become the trainer's."""
        if trainer._process.weights_are_on_workers:
            trainer._fetch_weights()
        if self._group is not None:
            self._group.kill()
        self._group = None
        self._trained = None

    def weights(self) -> dict[str, Any] | None:
        """The weights that the workers hold, or held when they left; None if they were lost with them."""
        group = self._group
        if group is None:
            return None
        if group.is_open and not group.is_busy:
            try:
                context = self._context(new_run_id())
                return group.call("_export_weights", task_id=context.run_id, context=context).value
            except GroupClosedError:
                pass
        return group.final_weights()

    def end(self, trainer: DriverTrainer) -> None:
        """End the workers; their weights come to the driver first."""
        if self._group is None:
            return
        if trainer._process.weights_are_on_workers:
            trainer._fetch_weights()
        self._group.end()
        self._group = None
        self._trained = None
