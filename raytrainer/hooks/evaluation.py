"""Hooks about evaluation and prediction."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers.trainer_pt_utils import nested_detach  # pyright: ignore[reportUnknownVariableType]
from transformers.trainer_utils import EvalLoopOutput

from raytrainer.data.target_count import count_items
from raytrainer.driver.entry_points import entry_point
from raytrainer.evaluation.loop import PredictionLoop
from raytrainer.hooks.metric import metric_of
from raytrainer.optim.schedules import waits_for_metric
from raytrainer.trainer_protocol import TrainerParts
from raytrainer.user_types import Batch


class EvaluationHooks(TrainerParts):
    """Prediction of a batch, and the loop over a loader."""

    @entry_point
    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """All ranks: predict on a whole loader and compute metrics.

        Args:
            dataloader: Batches of this rank, as ``get_eval_dataloader`` and ``get_test_dataloader`` give them. A loader
                of your own gives every rank all batches, unless it was prepared or its sampler divides it.
            description: Shown beside the progress.
            prediction_loss_only: Keep the loss alone; ``args.prediction_loss_only`` by default.
            ignore_keys: Outputs of the model that are left out of the predictions.
            metric_key_prefix: Metrics are named ``<prefix>_<name>``.

        Raises:
            ConfigurationError: If it is called on a driver with a loader of the trainer's own, which belongs to the
                driver's process.
        """
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        loop = PredictionLoop(
            self,
            backend=self._backend,
            runtime=self._runtime,
            dataloader=dataloader,
            description=description,
            prediction_loss_only=bool(loss_only),
            ignore_keys=ignore_keys,
        )
        with contextlib.closing(loop):
            loop.run()
            return loop.result(metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Predict on one batch.

        Returns:
            Loss, logits and labels of this rank's batch, each None where there is none.
        """
        has_labels = bool(self.label_names) and all(inputs.get(name) is not None for name in self.label_names)
        return_loss = inputs.get("return_loss")
        wants_loss = self.can_return_loss if return_loss is None else return_loss
        has_loss = has_labels or (not self.label_names and bool(wants_loss))
        inputs = self._prepare_inputs(inputs)
        if ignore_keys is None:
            config = getattr(self.model, "config", None)
            ignore_keys = (
                getattr(config, "keys_to_ignore_at_inference", ["past_key_values"]) if config else []
            )
        labels: Any = None
        if has_loss:
            labels = detached(tuple(inputs.get(name) for name in self.label_names))
            labels = labels[0] if len(labels) == 1 else labels
        with torch.no_grad():
            loss, outputs = self._predict_batch(model, inputs, has_loss)
        if prediction_loss_only:
            return loss, None, None
        return loss, select_logits(outputs, ignore_keys or [], has_loss), labels

    def _prediction_padding(self) -> int:
        """The value that pads predictions to the length of those of other batches and ranks."""
        return -100

    def _predict_batch(
        self, model: nn.Module, inputs: Batch, has_loss: bool
    ) -> tuple[torch.Tensor | None, Any]:
        with self.compute_loss_context_manager():
            if not has_loss:
                return None, model(**inputs)
            if self._compute_loss_takes_count:
                count = self._eval_item_count(inputs)
                loss, outputs = self.compute_loss(
                    model, inputs, return_outputs=True, num_items_in_batch=count
                )
            else:
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach().mean(), outputs

    def _eval_item_count(self, inputs: Batch) -> torch.Tensor | None:
        # The count of this batch alone: its loss is a mean, whatever divides by it.
        if "labels" not in inputs or not (
            self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        ):
            return None
        count = count_items([inputs], loss_shifts_labels=self._process.loss_shifts_labels)
        return None if count is None else count.to(self.args.device)

    def _evaluation_model(self) -> nn.Module:
        """The module that predicts: the one with the precision of training, without the reduction of gradients."""
        model = self._backend.evaluation_model(self.model, in_training=self.is_in_train)
        if not self.is_in_train and (self.args.bf16_full_eval or self.args.fp16_full_eval):
            model = model.to(dtype=torch.bfloat16 if self.args.bf16_full_eval else torch.float16)
        return model

    def _evaluate(
        self, trial: object, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        metrics = self.evaluate(ignore_keys=ignore_keys_for_eval)
        if waits_for_metric(self.lr_scheduler) and not skip_scheduler:
            self.lr_scheduler.step(metric_of(self.args, metrics))
        return metrics


def select_logits(outputs: object, ignore_keys: list[str], has_loss: bool) -> Any:
    """Return what a model returned besides its loss, detached.

    Args:
        outputs: The outputs of the model.
        ignore_keys: Names of outputs to drop.
        has_loss: Whether the first output is the loss.

    Returns:
        Tensors ``[batch, ...]`` in the structure of the outputs; a single one by itself.
    """
    if isinstance(outputs, Mapping):
        named = cast("Mapping[str, Any]", outputs)
        ignored = {*ignore_keys, "loss"} if has_loss else set(ignore_keys)
        logits = tuple(value for key, value in named.items() if key not in ignored)
    elif isinstance(outputs, tuple | list):
        logits = tuple(cast("Sequence[Any]", outputs))[1 if has_loss else 0 :]
    else:
        return detached(outputs)
    parts = detached(logits)
    return parts[0] if len(parts) == 1 else parts


def detached(nest: Any) -> Any:
    """Detach every tensor of a nest of tuples, lists and mappings."""
    return cast("Any", nested_detach(nest))
