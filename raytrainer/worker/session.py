"""A trainer that is set up in this process, and its tasks: train, evaluate, predict, export weights.

A session lasts as long as its process keeps the trainer: it is set up once for many tasks. What a task changes on
rank 0 and the driver's trainer should have too (state, control, callbacks, the user's own attributes) goes back with
its result.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from raytrainer.arguments.seeding import seed_process
from raytrainer.checkpoint.locate import readable_on_all
from raytrainer.checkpoint.rank_agreement import of_rank_0
from raytrainer.checkpoint.run_storage import RunStorage
from raytrainer.errors import CheckpointError
from raytrainer.loop.saving import checkpoint_storage
from raytrainer.runtimes.base import Runtime
from raytrainer.runtimes.interrupts import Heard
from raytrainer.storage.locations import is_uri
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.wire.parts import SentParts
from raytrainer.worker.changed_settings import settings_of
from raytrainer.worker.changes import apply_change
from raytrainer.worker.returned import returned
from raytrainer.worker.setup import build_model, set_up
from raytrainer.worker.task_context import TaskContext

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class Session:
    """One trainer in one process."""

    def __init__(self, trainer: TrainerProtocol, runtime: Runtime) -> None:
        self.trainer = trainer
        self.runtime = runtime
        self.is_restart = False
        self.has_trained = False
        self.callbacks: dict[str, object] = {
            str(number): callback for number, callback in enumerate(trainer.callback_handler.callbacks)
        }
        """Those that the driver's trainer has, by number."""
        set_up(trainer, runtime)
        self.settings = settings_of(trainer.args)
        """What decided how the trainer was set up."""
        trainer._process.session = self

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return self.trainer.state.global_step

    def run(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        context: TaskContext,
        restarted: bool = False,
    ) -> Any:
        """All ranks: run a task.

        Args:
            method: Name of a method of the trainer.
            args: Its arguments.
            kwargs: Its keyword arguments.
            context: What the driver knows.
            restarted: An earlier attempt began this task and did not end it.

        Returns:
            On rank 0 a ``Returned``; of a method of the package's own, its value.
        """
        self.runtime.run_id = context.run_id
        self.is_restart = restarted
        self.restore_trained_weights(context)
        value = getattr(self.trainer, method)(*args, **kwargs)
        if method.startswith("_"):
            return value
        return returned(self.trainer, self.callbacks, value) if self.runtime.rank == 0 else None

    def change(self, change: SentParts) -> None:
        """All ranks, before a task: take over what has changed on the driver's trainer.

        Args:
            change: Parts of the trainer in transport form.
        """
        apply_change(self.trainer, self.callbacks, change)

    def restore_trained_weights(self, context: TaskContext) -> None:
        """All ranks: give a restarted worker the weights that a completed run ended with.

        Raises:
            CheckpointError: If no checkpoint holds them.
        """
        if context.trained_run_id is None or self.has_trained:
            return
        storage = checkpoint_storage(self.trainer)
        location = of_rank_0(self.runtime, lambda: self._trained_checkpoint(context, storage))
        if self.trainer.model is None:
            build_model(self.trainer)
        model = self.trainer.model
        assert model is not None
        self.trainer._backend.load_model(model, readable_on_all(location, self.runtime))
        if is_uri(location):
            self.runtime.barrier()  # the ranks of a machine read one copy
            storage.release()
        self.has_trained = True

    def _trained_checkpoint(self, context: TaskContext, storage: RunStorage) -> str:
        if context.best_checkpoint:
            return context.best_checkpoint
        location = storage.newest(run_id=context.trained_run_id, report=logger.warning)
        if location is None or location != storage.checkpoint(context.trained_step):
            raise CheckpointError(
                f"The workers that held the weights after step {context.trained_step} are gone, and "
                f"{storage.location} has no checkpoint of that step. Train again, with save_strategy other than 'no'."
            )
        return location

    def final_weights(self) -> dict[str, torch.Tensor] | None:
        """All ranks, before workers leave: the trained weights ``[full shape]`` on rank 0; None without training."""
        return self.trainer._export_weights() if self.has_trained else None

    def weights_held(self) -> dict[str, torch.Tensor] | None:
        """Rank 0, after a failed task that does not train: the trained weights, if other ranks need not take part.

        None where ranks hold shards, and where an evaluation may have cast them.
        """
        args = self.trainer.args
        if args.sharded_by is not None or args.bf16_full_eval or args.fp16_full_eval:
            return None
        return self.final_weights()

    def close(self) -> None:
        """The workers are about to end."""
        self.trainer._process.session = None

    def listening(self) -> contextlib.AbstractContextManager[Heard]:
        """Inside the block, the driver or Ctrl-C may ask a running loop to save and stop."""
        listening: Callable[..., contextlib.AbstractContextManager[Heard]] | None
        listening = getattr(self.runtime, "listening", None)
        if listening is None:
            return contextlib.nullcontext(Heard())  # on a Ray worker, whose driver hears signals
        return listening(sigterm_only_asks=self.trainer.args.enable_jit_checkpoint)


def open_session(trainer: TrainerProtocol, runtime: Runtime) -> Session:
    """All ranks of a Ray group: set up a trainer that a driver constructed and seeded."""
    # Before a device is chosen, because CUDA reads the variables of full_determinism then.
    seed_process(trainer.args)
    return Session(trainer, runtime)
