"""Hooks about what is logged and saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn
from transformers.trainer_utils import speed_metrics  # pyright: ignore[reportUnknownVariableType]

from raytrainer.arguments.json_file import write_arguments
from raytrainer.checkpoint.locate import readable_on_all
from raytrainer.checkpoint.model_files import save_model_weights
from raytrainer.checkpoint.names import ARGUMENTS_NAME
from raytrainer.errors import ConfigurationError
from raytrainer.hooks.metric import metric_of
from raytrainer.hub.checkpoint_uploads import upload_checkpoint, uploads_checkpoints
from raytrainer.loop.saving import save_checkpoint
from raytrainer.telemetry.events import Logged
from raytrainer.trainer_protocol import TrainerParts


class SavingHooks(TrainerParts):
    """Logs, checkpoints and the best model."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record logs in the state, and pass them to the callbacks and the driver."""
        epoch = cast("float | None", self.state.epoch)  # None before the first run
        if epoch is not None:
            logs["epoch"] = epoch
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
            run = self._process.run
            if start_time is not None and run is not None:
                tokens = self.state.num_input_tokens_seen - run.first_tokens
                speed = cast("dict[str, float]", speed_metrics("train", start_time, num_tokens=tokens))
                logs.update(speed)
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        runtime = self._process.runtime
        if runtime is not None and runtime.rank == 0:
            runtime.emit(Logged(step=self.state.global_step, max_steps=self.state.max_steps, logs=dict(logs)))

    def store_flos(self) -> None:
        """All ranks: add what the ranks computed since the last time to the state."""
        backend, flos = self._backend, float(self.current_flos)
        if self.args.world_size > 1:
            of_rank = torch.tensor(flos, dtype=torch.float64, device=self.args.device)
            flos = backend.sum_over_ranks(of_rank).item()
        self.state.total_flos += flos
        self.current_flos = 0.0

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        target = Path(output_dir if output_dir is not None else str(self.args.output_dir))
        processor = self.processing_class
        if processor is None:
            processor = getattr(self.data_collator, "tokenizer", None)
        backend = self._process.backend
        if backend is not None and state_dict is None:
            backend.save_model(self.model, target, processing_class=processor)
        elif self.args.should_save:
            save_model_weights(self.model, target, processing_class=processor, state_dict=state_dict)
        if self.args.should_save:
            write_arguments(target / ARGUMENTS_NAME, self.args)

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None:
        run = self._process.run
        if run is None:
            raise ConfigurationError(
                "_save_checkpoint was called while nothing trains, and a checkpoint holds the state of a training run. "
                "Call it from a hook or a callback of train(), or use save_model()."
            )
        save_checkpoint(run)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """All ranks: hand a committed checkpoint to the upload in the background, if the strategy has one."""
        if self._runtime.rank == 0 and uploads_checkpoints(self.args):
            upload_checkpoint(self, Path(checkpoint_folder))

    def _finish_current_push(self) -> None:
        """Wait for the uploads of this process."""
        if self._process.hub is not None:
            self._process.hub.queue.wait()
        if self._process.own_push is not None:
            self._process.own_push.wait_until_done()

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool:
        if self.args.metric_for_best_model is None:
            return False
        value = metric_of(self.args, metrics)
        best = self.state.best_metric
        is_better = np.greater if self.args.greater_is_better else np.less
        if best is not None and not is_better(value, best):
            return False
        if best is None and np.isnan(value):
            return False
        self.state.best_metric = value
        if self.args.save_strategy != "no":
            self.state.best_global_step = self.state.global_step
        return True

    def _task_state(self) -> dict[str, Any]:
        """All ranks: what a checkpoint keeps of a trainer of one task; plain JSON values."""
        return {}

    def _restore_task_state(self, state: dict[str, Any]) -> None:
        """All ranks: start a run from what a checkpoint kept; an empty dict where it kept nothing."""

    def _load_best_model(self) -> None:
        best = readable_on_all(str(self.state.best_model_checkpoint), self._runtime)
        self._backend.load_model(self.model, best)
