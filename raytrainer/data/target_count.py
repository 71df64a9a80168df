"""Counting the target items of batches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch


def count_items(batches: Sequence[Any], *, loss_shifts_labels: bool) -> torch.Tensor | None:
    """Count the target items of micro-batches on this rank.

    Args:
        batches: Micro-batches of one step.
        loss_shifts_labels: Whether the loss itself shifts labels, so that position 0 is never a target.

    Returns:
        A scalar int64 tensor [items]; None where the labels are no tensors of class indices.
    """
    try:
        counts: list[torch.Tensor] = []
        for batch in batches:
            if "shift_labels" in batch:
                labels = batch["shift_labels"]
            else:
                labels = batch["labels"][..., 1:] if loss_shifts_labels else batch["labels"]
            counts.append(labels.ne(-100).count_nonzero())
    except (TypeError, AttributeError):
        return None
    total = counts[0]
    for count in counts[1:]:
        total = total + count
    return total


def has_labels(batch: Any) -> bool:
    """Whether a micro-batch has targets under the name that they have in ``transformers``."""
    return isinstance(batch, Mapping) and "labels" in batch


def own_items(batches: list[Any], own: list[Any], loss_shifts_labels: bool) -> torch.Tensor | None:
    """Count the target items of a step that belong to this rank.

    Args:
        batches: Its micro-batches.
        own: Those that are no stand-ins.
        loss_shifts_labels: As of ``count_items``.

    Returns:
        As of ``count_items``.
    """
    count = count_items(own or batches[:1], loss_shifts_labels=loss_shifts_labels)
    return count if own or count is None else torch.zeros_like(count)
