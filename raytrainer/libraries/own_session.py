"""A worker's session around a trainer of ``transformers`` that runs as it is.

Ranks find each other in the variables that torchrun would set and in the process group that the worker has opened.
Only what concerns the driver is added to the trainer: progress, a checked checkpoint to go on from, committed saves.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from torch import nn
from transformers import PrinterCallback, ProgressCallback
from transformers.trainer_utils import SaveStrategy

from raytrainer.checkpoint.manifest import read_manifest
from raytrainer.checkpoint.ownership import fresh_start
from raytrainer.checkpoint.replaced import predecessors
from raytrainer.checkpoint.scan import (
    checkpoints_of_others,
    newest_checkpoint,
    requested_checkpoint,
    sweep_leftovers,
)
from raytrainer.checkpoint.shared_directory import check_shared
from raytrainer.errors import CheckpointError
from raytrainer.libraries.progress import RunProgress, home_of_loop
from raytrainer.libraries.remote_trainer import CallContext, CallResult, TrainedModel, TrainerCall
from raytrainer.libraries.saves import CommittedSaves
from raytrainer.loop.notes import tell
from raytrainer.runtimes.base import Runtime
from raytrainer.wire.pickling import pack
from raytrainer.worker.run_lease import held_by_run

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)


class OwnLoopSession:
    """One trainer of transformers in one process."""

    def __init__(self, call: TrainerCall, runtime: Runtime) -> None:
        self._runtime = runtime
        # Read first, because the trainer may change the model that it is given, for instance add adapters to it.
        self._given = None if call.given_model is None else _shapes(call.given_model)
        self._trainer = trainer = call.make()
        self._has_trained = False
        if call.weights is not None:
            self._unwrapped().load_state_dict(call.weights)
        # The driver shows progress; bars of workers would only come between.
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        self._progress = RunProgress(runtime, home_of_loop(trainer), trainer.args.device)
        trainer.add_callback(self._progress)
        self._saves = CommittedSaves(trainer, runtime)

    @property
    def step(self) -> int:
        """Optimizer steps that are done."""
        return self._trainer.state.global_step

    def run(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        restarted: bool,
        context: CallContext,
    ) -> CallResult:
        """All ranks: call a method of the trainer.

        Args:
            method: Its name, or that of one of the methods below.
            args: Its arguments.
            kwargs: Its keyword arguments.
            restarted: An earlier attempt began this call.
            context: What the driver knows.
        """
        for name, value in context.changes.items():
            setattr(self._trainer.args, name, value)
        self._restore_trained_weights(context)
        own = {"_trained": self.trained, "_attribute": self.attribute}
        if method == "train":
            value = self._train(args, kwargs, is_restart=restarted)
        elif method in own:
            value = own[method](*args)
        else:
            value = getattr(self._trainer, method)(*args, **kwargs)
        return CallResult(value=value, state=self._trainer.state)

    def final_weights(self) -> TrainedModel | None:
        """All ranks, before the workers leave: the trained model; None without training."""
        return self.trained() if self._has_trained else None

    def weights_held(self) -> None:
        """Nothing: how the library distributes its model is not known here."""

    def close(self) -> None:
        """The workers are about to end."""

    # ---- what the driver asks for besides the trainer's methods -------------------------------------------------

    def trained(self) -> TrainedModel:
        """All ranks: the trained model on rank 0."""
        trainer = self._trainer
        found = cast(
            "dict[str, torch.Tensor] | None", trainer.accelerator.get_state_dict(trainer.model_wrapped)
        )
        weights = {name: value.detach().cpu() for name, value in (found or {}).items()}
        return TrainedModel(weights=weights, model=None if self._trains_given_model() else self._unwrapped())

    def _trains_given_model(self) -> bool:
        return self._given == _shapes(self._unwrapped())

    def attribute(self, name: str) -> tuple[bool, Any]:
        """All ranks: whether the trainer has an attribute, and its value.

        Raises:
            TypeError: If the value cannot be sent to the driver.
        """
        if not hasattr(self._trainer, name):
            return False, None
        value = getattr(self._trainer, name)
        if self._runtime.rank == 0:
            pack(value)
        return True, value

    def _unwrapped(self) -> nn.Module:
        return cast("nn.Module", self._trainer.accelerator.unwrap_model(self._trainer.model))

    # ---- training -----------------------------------------------------------------------------------------------

    def _train(self, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_restart: bool) -> Any:
        requested, rest = (args[0], args[1:]) if args else (kwargs.pop("resume_from_checkpoint", None), ())
        saves = self._trainer.args.save_strategy != SaveStrategy.NO
        if saves:
            check_shared(self._run_directory(), self._runtime)
        with held_by_run(str(self._run_directory()), self._runtime, saves=saves):
            checkpoint = self._agree_on_origin(requested, is_restart=is_restart)
            self._progress.resumed_from = checkpoint
            value = self._trainer.train(checkpoint, *rest, **kwargs)
        self._has_trained = True
        return value

    def _agree_on_origin(self, requested: str | bool | None, *, is_restart: bool) -> str | None:
        """All ranks: the checkpoint to go on from. Rank 0 looks; an error there is an error everywhere."""
        outcome: str | Exception | None = None
        if self._runtime.rank == 0:
            try:
                outcome = self._find_origin(requested, is_restart=is_restart)
            except Exception as error:  # noqa: BLE001 - whatever it is, the other ranks wait for an answer
                outcome = error
        agreed = self._runtime.broadcast(outcome)
        if isinstance(agreed, Exception):
            raise agreed
        return agreed

    def _find_origin(self, requested: str | bool | None, *, is_restart: bool) -> str | None:
        directory = self._run_directory()
        sweep_leftovers(directory)
        if is_restart:
            own = newest_checkpoint(directory, run_id=self._runtime.run_id, report=self._report)
            if own is not None:
                self._saves.continues = predecessors(own, of_restart=True)
                return str(own)
        checkpoint = requested_checkpoint(directory, requested, report=self._report)
        if checkpoint is not None:
            self._saves.continues = predecessors(checkpoint, of_restart=False)
            return str(checkpoint)
        self._saves.continues = ()
        others = checkpoints_of_others(directory, {self._runtime.run_id})
        if others and not is_restart and self._trainer.args.save_strategy != SaveStrategy.NO:
            self._report(fresh_start(directory, others))
        return None

    def _restore_trained_weights(self, context: CallContext) -> None:
        """All ranks: give workers that were restarted the weights that a completed run ended with.

        Raises:
            CheckpointError: If no checkpoint holds them.
        """
        if context.trained_run_id is None or self._has_trained:
            return
        directory = self._run_directory()
        path = newest_checkpoint(directory, run_id=context.trained_run_id, report=logger.warning)
        if path is None or read_manifest(path).step != context.trained_step:
            raise CheckpointError(
                f"The workers that held the weights after step {context.trained_step} are gone, and {directory} has no "
                "checkpoint of that step. Train again, with save_strategy other than 'no'."
            )
        self._trainer._load_from_checkpoint(str(path))
        self._has_trained = True

    def _run_directory(self) -> Path:
        return Path(self._trainer._get_output_dir(trial=None))

    def _report(self, text: str) -> None:
        tell(self._runtime, text)


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in model.state_dict().items()}


def open_session(call: TrainerCall, runtime: Runtime) -> OwnLoopSession:
    """All ranks: construct the trainer in this process."""
    return OwnLoopSession(call, runtime)
