"""Hooks about one micro-batch: its loss and its backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, cast

import torch
from torch import nn

from raytrainer.errors import ConfigurationError
from raytrainer.loop.item_count import call_compute_loss, forward_with_count, loss_function_of
from raytrainer.loop.step import FlopCounter
from raytrainer.trainer_protocol import TrainerParts

_NO_CONTEXT: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()


class StepHooks(TrainerParts):
    """Forward, loss and backward of a micro-batch."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch.

        Args:
            model: The wrapped model.
            inputs: The batch.
            num_items_in_batch: Target items of the step over all ranks [items].

        Returns:
            The micro-batch's detached share of the step's loss, a scalar.
        """
        run = self._process.run
        if run is None:
            raise ConfigurationError(
                "training_step was called while nothing trains. It is a hook of train(): override it, or call "
                "compute_loss to get the loss of a batch."
            )
        scaling = run.scaling
        run.train_mode.enter(model)
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        if isinstance(num_items_in_batch, int):  # from a get_batch_samples of the user's own
            num_items_in_batch = torch.tensor(num_items_in_batch, device=self.args.device)
        count = scaling.count_for_override(num_items_in_batch)
        with self.compute_loss_context_manager():
            loss = call_compute_loss(self, model, inputs, count)
        del inputs
        if (
            self.args.torch_empty_cache_steps is not None
            and self.state.global_step % self.args.torch_empty_cache_steps == 0
            and torch.cuda.is_available()
        ):
            torch.cuda.empty_cache()
        loss = scaling.scale_for_step(loss, count, self.current_gradient_accumulation_steps)
        if getattr(self.optimizer, "measures", False):
            self.optimizer.backward(partial(run.backend.backward, loss), max_norm=self.args.max_grad_norm)
        else:
            run.backend.backward(loss)
        return loss.detach()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of a micro-batch.

        An override may leave ``num_items_in_batch`` out of its signature, or ignore it, and return the mean of its
        batch; or divide the sum of its losses by it. Both are scaled right for any number of micro-batches and ranks.

        Args:
            model: The wrapped model.
            inputs: The batch, on the rank's device.
            return_outputs: Return ``(loss, outputs)``.
            num_items_in_batch: Target items of the step over all ranks [items].
        """
        takes_labels = self.label_smoother is not None or self.compute_loss_func is not None
        labels = inputs.pop("labels") if takes_labels and "labels" in inputs else None
        outputs = forward_with_count(self, model, inputs, num_items_in_batch)
        function = loss_function_of(self)
        if function is not None:
            loss = function(self, outputs, labels, num_items_in_batch)
        elif labels is not None:
            loss = self._smoothed_loss(outputs, labels, num_items_in_batch)
        else:
            loss = loss_of(outputs, inputs, getattr(self.train_dataset, "column_names", None))
        scaling = self._process.loss_scaling
        if model.training and scaling is not None:
            count = num_items_in_batch if torch.is_tensor(num_items_in_batch) else None
            loss = scaling.scale_base_loss(loss, count)
        return (loss, outputs) if return_outputs else loss

    def _smoothed_loss(
        self, outputs: object, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None
    ) -> torch.Tensor:
        # The smoother shifts labels by itself, where the model's own loss would.
        return self.label_smoother(
            outputs,
            labels,
            shift_labels=self._process.smoother_shifts_labels,
            num_items_in_batch=num_items_in_batch,
        )

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager[Any]:
        """The context around ``compute_loss``; the wrapped model does autocast by itself."""
        return self.autocast_smart_context_manager()

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> contextlib.AbstractContextManager[Any]:
        """A further context for the forward pass; none by default."""
        return _NO_CONTEXT

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Floating-point operations of a forward and backward pass of a batch."""
        counter = self._process.flop_counter
        if counter is None:
            counter = self._process.flop_counter = FlopCounter()
        return counter(self.model, inputs)


def loss_of(outputs: Any, inputs: dict[str, Any], columns: Collection[str] | None = None) -> torch.Tensor:
    """The loss in a model's outputs, a scalar.

    Args:
        outputs: Of the model.
        inputs: What it got.
        columns: Of the dataset, if it has names for them.

    Raises:
        ConfigurationError: If there is no loss.
    """
    if isinstance(outputs, dict | Mapping):  # the first of the two is known at once
        named = cast("Mapping[str, Any]", outputs)
        if "loss" not in named:
            raise ConfigurationError(
                f"The model returned {list(named)} and no loss from the inputs {list(inputs)}. Give it labels under "
                f"the name that its forward takes, or override compute_loss.{_left_out(inputs, columns)}"
            )
        return named["loss"]
    return outputs[0]


def _left_out(inputs: Collection[str], columns: Collection[str] | None) -> str:
    missed = sorted(set(columns or ()) - set(inputs))
    if not missed:
        return ""
    return f" Of the dataset's columns it did not get {missed}: rename the one that holds the labels to 'labels'."
