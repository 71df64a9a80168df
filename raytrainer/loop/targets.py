"""Which micro-batches have a target, and how much each counts in a mean over micro-batches.

A micro-batch whose labels are all -100 has no loss: the mean over its targets is 0/0. Where each micro-batch has a mean
of its own, those without a target are left out, and the others count as much as they do without them, on all ranks. A
loss that is divided by the targets of the whole step needs none of this, unless the step has none.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch

from raytrainer.data.batch_split import weights_of
from raytrainer.data.host_labels import holds_target
from raytrainer.data.sample_ids import sample_ids
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun

_MAX_IDS = 64


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTargets:
    """The targets of one step's micro-batches on this rank."""

    has_target: list[bool]
    """Of each micro-batch; True where it cannot be told without waiting for a device."""
    shares: list[float]
    """How much each counts in a mean over ranks; 0 for a stand-in."""
    weights: list[float]
    """The same in a mean over the micro-batches with a target."""
    exist: bool
    """Whether a micro-batch that counts has one, on any rank."""


@functools.cache
def _all_exist(count: int) -> StepTargets:
    """Of so many micro-batches, each with a target, that count alike."""
    ones = [1.0] * count
    return StepTargets(has_target=[True] * count, shares=ones, weights=ones, exist=True)


def has_target(run: TrainRun, batch: Any) -> bool:
    """Whether a micro-batch has a target, as far as its labels are class indices that were seen on the CPU."""
    if not isinstance(batch, Mapping):
        return True
    named = cast("Mapping[str, Any]", batch)
    names = ["shift_labels"] if "shift_labels" in named else run.trainer.label_names or ["labels"]
    found = False
    for name in names:
        labels = named.get(name)
        if not isinstance(labels, torch.Tensor) or labels.is_floating_point():
            return True
        found = True
        if holds_target(labels, shifted=run.trainer._process.loss_shifts_labels and name == "labels"):
            return True
    return not found


def targets_of(run: TrainRun, group: list[Any], *, has_items: bool) -> StepTargets:
    """All ranks, before a step: find out which of its micro-batches have a target.

    Args:
        run: The run.
        group: This rank's micro-batches.
        has_items: The step is known to have targets (``is_counted_here``). Where all losses are divided by their
            number, none is missed then.
    """
    shares = weights_of(run.loader, len(group))
    if has_items and not run.may_average_micro_batches and run.scaling.was_divided:
        alike = _all_exist(len(group))
        if shares == alike.shares:
            return alike
        return StepTargets(has_target=[True] * len(group), shares=shares, weights=shares, exist=True)
    found = [has_target(run, batch) for batch in group]
    missing = sum(share > 0 and not has for share, has in zip(shares, found, strict=True))
    if run.may_average_micro_batches:
        missing = run.runtime.agree([missing])[0]
    if missing == 0:
        return StepTargets(has_target=found, shares=shares, weights=shares, exist=True)
    kept = [share if has else 0.0 for share, has in zip(shares, found, strict=True)]
    whole, real = sum(shares), sum(kept)
    if run.may_average_micro_batches and run.runtime.world_size > 1:
        sums = torch.tensor([whole, real], dtype=torch.float64, device=run.args.device)
        whole, real = cast("list[float]", run.backend.sum_over_ranks(sums).tolist())
    factor = whole / real if real > 0 else 0.0
    return StepTargets(
        has_target=found, shares=shares, weights=[one * factor for one in kept], exist=real > 0
    )


def learn_kind_of_loss(run: TrainRun) -> None:
    """All ranks, after the first step: whether any rank must go on looking for micro-batches without a target."""
    run.kind_of_loss_is_known = True
    may_average = not run.scaling.was_divided
    run.may_average_micro_batches = bool(run.runtime.agree([int(may_average)])[0])


@contextlib.contextmanager
def without_gradients(run: TrainRun) -> Generator[None]:
    """Inside, a backward pass adds nothing to gradients: those of a loss over nothing may be NaN."""
    handles = [
        parameter.register_hook(torch.zeros_like)
        for parameter in run.trainer.model.parameters()
        if parameter.requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def report_missing(run: TrainRun, targets: StepTargets, num_items: torch.Tensor | int | None) -> None:
    """This rank, after the micro-batches of a step: name the first samples whose missing targets matter.

    Args:
        run: The run.
        targets: Of the step.
        num_items: Targets of the step over all ranks, or None.
    """
    if run.reported_missing_targets:
        return
    divisor = num_items if run.scaling.was_divided else None
    if divisor is not None and (any(targets.has_target) or int(divisor) > 0):
        return
    run.reported_missing_targets = True
    total = len(targets.has_target)
    first = run.cursor.micro_batches - total
    missing = [index for index, has in enumerate(targets.has_target) if not has]
    known = [sample_ids(run.loader, first + index) for index in missing]
    ids = [one for some in known for one in some or []]
    more = f" and {len(ids) - _MAX_IDS} more" if len(ids) > _MAX_IDS else ""
    samples = (
        f" Their samples in the training data: {', '.join(map(str, ids[:_MAX_IDS]))}{more}." if ids else ""
    )
    text = (
        f"In step {run.trainer.state.global_step + 1} on rank {run.runtime.rank}, {len(missing)} of {total} "
        "micro-batches have no target: all of their labels are -100. What has no target has no loss, and is left out "
        f"of the mean.{samples} Look at what masks their labels, such as truncation or a template. This is said once."
    )
    tell(run.runtime, text)
    if run.runtime.rank != 0:
        run.pending_notes.append(text)
