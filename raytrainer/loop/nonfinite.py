"""Where a NaN or an infinite value came from: the first module that made it, and the samples of its micro-batch.

A loss on the CPU is checked in each micro-batch, before the update spoils the weights. On a GPU looking would wait
for the device in each step, so there ``debug="underflow_overflow"`` asks for it; without it the log says at which step
the loss was no number. The forward pass of the micro-batch is then done once more, with a hook on every module.

With ``debug="underflow_overflow"`` the hooks stay on, and the run stops at the first module with such an output, even
if the loss is finite.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from raytrainer.data.sample_ids import sample_ids
from raytrainer.layout.tensor_layout import has_distributed_parameters
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun

_MAX_IDS = 64


def is_debugging(args: Any) -> bool:
    """Whether ``debug`` asks for the check of every module."""
    return "underflow_overflow" in (args.debug or ())


def check_loss(run: TrainRun, loss: torch.Tensor, inputs: Any, num_items: Any) -> None:
    """This rank, after the backward pass of a micro-batch: find the origin of the first non-finite loss, once.

    Args:
        run: The run.
        loss: Loss of the micro-batch, a scalar.
        inputs: The micro-batch.
        num_items: Targets of the step over all ranks, or None.
    """
    if run.traced_bad_loss or not (loss.is_cpu or is_debugging(run.args)) or math.isfinite(loss.item()):
        return
    run.traced_bad_loss = True
    text = (
        f"The loss of step {run.trainer.state.global_step + 1} on rank {run.runtime.rank} is {loss.item()}. "
        f"{origin(run, inputs, num_items)} {describe_samples(run)}"
    )
    run.bad_loss_origin = text
    tell(run.runtime, text)


def describe_samples(run: TrainRun) -> str:
    """A sentence about the micro-batch that is being trained on."""
    index = run.cursor.micro_batches
    ids = sample_ids(run.loader, index)
    if ids is None:
        return f"It is micro-batch {index} of epoch {run.cursor.epoch} on this rank."
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    return f"Its samples in the training data: {', '.join(map(str, ids[:_MAX_IDS]))}{more}."


def origin(run: TrainRun, inputs: Any, num_items: Any) -> str:
    """Repeat a forward pass, and describe the first module with a non-finite output.

    Args:
        run: The run.
        inputs: The micro-batch.
        num_items: Targets of the step over all ranks, or None.

    Returns:
        A sentence.
    """
    model = run.trainer.model
    talks = any(isinstance(module, nn.SyncBatchNorm) for module in model.modules())
    if has_distributed_parameters(model) or (talks and run.runtime.world_size > 1):
        return "The module is not looked for: this model's forward pass needs all ranks."
    found: list[str] = []
    devices = [run.args.device] if run.args.device.type == "cuda" else []
    buffers = [(buffer, buffer.clone()) for buffer in model.buffers()]
    try:
        # Nothing of the run may change: neither what dropout draws next, nor running statistics.
        with torch.random.fork_rng(devices), torch.no_grad(), report_nonfinite(model, found.append):
            repeat_forward(run, inputs, num_items)
    except Exception as error:  # noqa: BLE001 - looking for an error must not end a run that goes on
        return f"The module is not known: a second forward pass raised {type(error).__name__}: {error}"
    finally:
        with torch.no_grad():
            for buffer, before in buffers:
                buffer.copy_(before)
    if found:
        return found[0]
    return "In a second forward pass all modules gave finite values: the loss itself, or what dropout drew, made it."


def repeat_forward(run: TrainRun, inputs: Any, num_items: Any) -> None:
    """This rank alone: run the forward pass of a micro-batch.

    Args:
        run: The run.
        inputs: The micro-batch.
        num_items: Targets of the step over all ranks, or None.
    """
    trainer = run.trainer
    inputs = trainer._prepare_inputs(inputs)
    if run.runtime.world_size > 1:
        trainer.model(**inputs)  # A user's compute_loss may wait for the other ranks.
    elif run.scaling.takes_count:
        trainer.compute_loss(trainer.model, inputs, num_items_in_batch=num_items)
    else:
        trainer.compute_loss(trainer.model, inputs)


@contextmanager
def report_nonfinite(model: nn.Module, report: Callable[[str], object]) -> Generator[None]:
    """While it lasts, each module whose output is not finite is reported, the first to end first."""
    hooks: list[RemovableHandle] = []
    modules = cast("Iterable[tuple[str, nn.Module]]", model.named_modules())
    for name, module in modules:

        def look(module: nn.Module, args: Any, kwargs: Any, output: Any, name: str = name) -> None:
            num_bad, num_all = count_bad(output)
            if num_bad:
                report(describe(name, module, (args, kwargs), num_bad, num_all))

        hooks.append(module.register_forward_hook(look, with_kwargs=True))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def describe(name: str, module: nn.Module, inputs: Any, num_bad: int, num_all: int) -> str:
    """Return a sentence about a module with a non-finite output.

    Args:
        name: The module's name in the model; empty for the model.
        module: The module.
        inputs: Its inputs.
        num_bad: Number of non-finite output values.
        num_all: Number of all output values.
    """
    which = (
        f"{name} ({type(module).__name__})" if name else f"{type(module).__name__} itself, after its modules,"
    )
    cause = "from finite inputs and weights"
    bad = [key for key, value in module.named_parameters(recurse=False) if count_bad(value)[0]]
    if bad:
        cause = f"because its {bad[0]} is not finite"
    elif count_bad(inputs)[0]:
        cause = "from inputs that were not finite"
    return (
        f"The first module with a NaN or infinite output is {which}: {num_bad} of {num_all} values, {cause}."
    )


def count_bad(data: Any) -> tuple[int, int]:
    """Non-finite numbers and all numbers in the floating tensors of a nest."""
    if isinstance(data, torch.Tensor):
        if not data.is_floating_point():
            return 0, 0
        return int((~data.detach().isfinite()).sum()), data.numel()
    if isinstance(data, Mapping):
        parts = list(cast("Mapping[object, object]", data).values())
    elif isinstance(data, list | tuple):
        parts = list(cast("Sequence[object]", data))
    else:
        return 0, 0
    counts = [count_bad(part) for part in parts]
    return sum(bad for bad, _ in counts), sum(every for _, every in counts)


@contextmanager
def debugging(run: TrainRun) -> Generator[None]:
    """While it lasts, the run stops at the first non-finite output, if ``debug`` asks for it.

    Raises:
        ValueError: In the forward pass that has one.
    """
    if not is_debugging(run.args):
        yield
        return

    def stop(text: str) -> None:
        if not run.trainer.is_in_train or not run.trainer.model.training:
            return
        raise ValueError(
            f"debug='underflow_overflow', step {run.trainer.state.global_step + 1}, rank {run.runtime.rank}: {text} "
            f"{describe_samples(run)}"
        )

    with report_nonfinite(run.trainer.model, stop):
        yield
