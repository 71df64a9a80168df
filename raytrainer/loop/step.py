"""One optimizer step: its micro-batches, then clip, update, schedule."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from raytrainer.layout.tensor_layout import full_shape
from raytrainer.loop.elastic_draws import seed_between_steps, seed_micro_batch
from raytrainer.loop.failed_step import explain_failure
from raytrainer.loop.item_count import is_counted_here
from raytrainer.loop.nonfinite import check_loss
from raytrainer.loop.out_of_memory import agree_on_memory, average_gradients
from raytrainer.loop.run import TrainRun
from raytrainer.loop.targets import learn_kind_of_loss, report_missing, targets_of, without_gradients
from raytrainer.loop.trainable import follow
from raytrainer.loop.untrained import tell_untouched
from raytrainer.optim.schedules import waits_for_metric
from raytrainer.user_types import Batch


def take_step(run: TrainRun, group: list[Any], num_items: torch.Tensor | int | None) -> bool:
    """Train on the micro-batches of one step and update the weights.

    All ranks: gradients are reduced in the backward pass of the last micro-batch, or after it (``out_of_memory``).

    Args:
        run: The run.
        group: This rank's micro-batches of the step.
        num_items: Targets of the step over all ranks, a scalar; None where they are not counted.

    Returns:
        False when a callback stopped the step between two micro-batches, so that no update was made.
    """
    if not accumulate_gradients(run, group, num_items):
        return False
    if run.trainer.state.global_step == run.resumed_step:
        tell_untouched(run)
    if not run.args.auto_find_batch_size:
        update_weights(run)
    else:
        average_gradients(run)
        agree_on_memory(run, functools.partial(update_weights, run))
    return True


def accumulate_gradients(run: TrainRun, group: list[Any], num_items: torch.Tensor | int | None) -> bool:
    """Forward and backward of a step's micro-batches.

    Args:
        run: The run.
        group: This rank's micro-batches of the step.
        num_items: Targets of the step over all ranks, a scalar; None where they are not counted.

    Returns:
        False when a callback stopped the step between two micro-batches.
    """
    trainer, handler, scaling = run.trainer, run.trainer.callback_handler, run.scaling
    fits, step = run.args.auto_find_batch_size, trainer.state.global_step + 1
    last_index = len(group) - 1
    has_items = is_counted_here(num_items)
    targets = targets_of(run, group, has_items=has_items)
    is_counted = num_items is not None and (has_items or num_items > 0)
    scaling.positive_count = num_items if has_items else None
    trainer.current_gradient_accumulation_steps = len(group)
    for index, inputs in enumerate(group):
        if index == 0:
            trainer.control = handler.on_step_begin(run.args, trainer.state, trainer.control)
            if "on_step_begin" in run.step_events:
                follow(run)
        is_last = index == last_index
        scaling.weight, scaling.weight_of_mean = targets.shares[index], targets.weights[index]
        has_target = targets.has_target[index]
        seed_micro_batch(run, index)
        with run.backend.micro_batch(run.model, is_last=(is_last or run.reduces_each) and not fits):
            try:
                if fits:
                    compute = functools.partial(
                        compute_gradients, run, inputs, num_items, has_target=has_target
                    )
                    loss = agree_on_memory(run, compute)
                else:
                    loss = compute_gradients(run, inputs, num_items, has_target=has_target)
            except Exception as error:
                explain_failure(run, error, inputs)
                raise
        check_loss(run, loss, inputs, num_items)
        is_real = targets.exist if num_items is None or not scaling.was_divided else is_counted
        run.meter.add(loss, step, is_real=is_real)
        run.cursor.micro_batches += 1
        track_work(run, inputs, counts=targets.shares[index] > 0)
        if not is_last:
            trainer.control = handler.on_substep_end(run.args, trainer.state, trainer.control)
            if "on_substep_end" in run.step_events and should_stop(run):
                return False
    if not all(targets.has_target):
        report_missing(run, targets, num_items)
    if not run.kind_of_loss_is_known:
        learn_kind_of_loss(run)
    return True


def compute_gradients(
    run: TrainRun, inputs: Batch, num_items: torch.Tensor | int | None, *, has_target: bool
) -> torch.Tensor:
    """Forward and backward of a micro-batch; one without a target adds no gradients to a mean over micro-batches.

    Args:
        run: The run.
        inputs: A micro-batch.
        num_items: Targets of the step over all ranks, or None.
        has_target: Whether the micro-batch has one.

    Returns:
        Its share of the loss of the step, a scalar.
    """
    if has_target or not run.may_average_micro_batches or run.scaling.was_divided:
        return call_training_step(run, inputs, num_items)
    with without_gradients(run):
        loss = call_training_step(run, inputs, num_items)
    return torch.zeros_like(loss) if not run.scaling.was_divided else loss


def should_stop(run: TrainRun) -> bool:
    """All ranks: whether any rank's control asks to end the epoch or the training."""
    control = run.trainer.control
    agreed = run.runtime.agree([control.should_epoch_stop, control.should_training_stop])
    control.should_epoch_stop, control.should_training_stop = bool(agreed[0]), bool(agreed[1])
    return bool(agreed[0] or agreed[1])


def call_training_step(run: TrainRun, inputs: Batch, num_items: torch.Tensor | int | None) -> torch.Tensor:
    """Call the ``training_step`` hook, of which older overrides do not take ``num_items_in_batch``.

    Args:
        run: The run.
        inputs: A micro-batch.
        num_items: Targets of the step over all ranks, or None.

    Returns:
        The loss, a scalar.
    """
    if takes_num_items(type(run.trainer).training_step):
        return run.trainer.training_step(run.model, inputs, num_items)
    return run.trainer.training_step(run.model, inputs)


@functools.cache
def takes_num_items(function: Callable[..., Any]) -> bool:
    """Whether a ``training_step`` takes a third argument."""
    parameters = inspect.signature(function).parameters
    is_open = any(p.kind is p.VAR_POSITIONAL for p in parameters.values())
    return is_open or len(parameters) > 3


def update_weights(run: TrainRun) -> None:
    """All ranks: clip, update, advance the schedule, and count the step."""
    trainer, handler, args = run.trainer, run.trainer.callback_handler, run.args
    if run.updates_in_backward:
        run.grad_norm = trainer.optimizer.take_grad_norm()
    else:
        run.grad_norm = run.backend.clip_grad_norm(
            run.model, args.max_grad_norm if args.max_grad_norm > 0 else None
        )
    trainer.control = handler.on_pre_optimizer_step(args, trainer.state, trainer.control)
    step_optimizer(run)
    run.grad_norm = run.backend.norm_of_step(run.grad_norm)
    trainer.control = handler.on_optimizer_step(args, trainer.state, trainer.control)
    # The rate that is logged is the one that this update used, so it is read before the schedule moves on.
    run.learning_rate = trainer._get_learning_rate()
    if not run.backend.step_was_skipped() and not waits_for_metric(trainer.lr_scheduler):
        trainer.lr_scheduler.step()
    run.backend.zero_grad(run.model)
    trainer.state.global_step += 1
    trainer.state.epoch = run.cursor.epoch + run.plan.part_of_epoch(run.cursor.micro_batches)
    if run.plan.dealing is not None:
        seed_between_steps(run)
    trainer.control = handler.on_step_end(args, trainer.state, trainer.control)


def step_optimizer(run: TrainRun) -> None:
    """Step; the first step after a checkpoint says what a state of another optimizer would look like."""
    try:
        run.trainer.optimizer.step()
    except KeyError as error:
        if run.last_checkpoint is not None and run.trainer.state.global_step == run.resumed_step:
            error.add_note(
                f"It is the first step with the optimizer's state of {run.last_checkpoint}, which has no {error}: was "
                "it saved with another optimizer? Use that one, or start from the weights alone, without "
                "resume_from_checkpoint."
            )
        raise


def track_work(run: TrainRun, inputs: Batch, *, counts: bool) -> None:
    """Count samples, tokens and floating-point operations of a micro-batch.

    Args:
        run: The run.
        inputs: The micro-batch.
        counts: False for a stand-in of a rank without samples.
    """
    trainer = run.trainer
    if counts:
        run.speed.add(run.micro_batch_size)
        trainer.current_flos += float(trainer.floating_point_ops(inputs))
    if run.args.include_num_input_tokens_seen != "no":
        run.trainer.state.num_input_tokens_seen += count_input_tokens(run, inputs, counts=counts)


def count_input_tokens(run: TrainRun, inputs: Batch, *, counts: bool = True) -> int:
    """All ranks: input tokens of a micro-batch over ranks.

    Args:
        run: The run.
        inputs: The micro-batch.
        counts: Whether this rank's counts.

    Returns:
        Their number [tokens]; 0 where the input has no known name.
    """
    trainer = run.trainer
    name = getattr(trainer.model, "main_input_name", "input_ids")
    if name not in inputs:
        return 0
    tokens: Any = inputs[name].numel()
    if run.args.include_num_input_tokens_seen == "non_padding":
        pad = getattr(trainer.processing_class, "pad_token_id", None)
        if "attention_mask" in inputs:
            tokens = inputs["attention_mask"].sum()
        elif pad is not None:
            tokens = (inputs[name] != pad).sum()
    if not counts:
        tokens = 0
    if isinstance(tokens, int) and run.runtime.world_size == 1:
        return tokens  # nobody to add up with, so no need to wait for a device
    tokens = torch.as_tensor(tokens, device=run.args.device, dtype=torch.int64)
    return int(run.backend.sum_over_ranks(tokens).item())


def num_parameters(model: Any) -> int:
    """Parameters without embeddings, also of a model of which this rank holds a part."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    others = [one for one in model.parameters() if id(one) not in embeddings]
    hidden = sum(full_shape(one).numel() - one.numel() for one in others)
    return model.num_parameters(exclude_embeddings=True) + hidden


class FlopCounter:
    """Floating-point operations of a forward and backward pass: 6 x tokens x parameters without embeddings.

    The parameters are counted once, not in every micro-batch.
    """

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._num_parameters = 0

    def __call__(self, model: nn.Module, inputs: Batch) -> int:
        if model is not self._model:
            self._model = model
            self._name: str = getattr(model, "main_input_name", "input_ids")
            self._num_parameters = num_parameters(model) if hasattr(model, "num_parameters") else 0
        name = self._name
        if not self._num_parameters or name not in inputs:
            return 0
        return 6 * inputs[name].numel() * self._num_parameters
