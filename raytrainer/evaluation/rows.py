"""Rows of evaluation batches: which are dropped before the forward pass, and how the others are gathered over ranks.

A duplicate sample that only fills the last batches of an uneven dataset is never shown to the model, so it can affect
neither a loss nor a metric, however the metric is computed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from transformers.trainer_pt_utils import find_batch_size  # pyright: ignore[reportUnknownVariableType]

from raytrainer.evaluation.nested import Objects, is_mapping, is_object_list, is_sequence, like, map_leaves
from raytrainer.evaluation.spill import PADDING
from raytrainer.user_types import Batch


def batch_size_of(batch: Batch) -> int | None:
    """The size of the first dimension of the first tensor in a nested batch; None if there is no tensor."""
    return cast("int | None", find_batch_size(batch))


def truncate_batch(batch: Batch, num_rows: int, batch_size: int) -> Any:
    """Keep the first rows of every tensor whose first dimension is the batch.

    Args:
        batch: A nested structure of tensors ``[batch_size, ...]``; any other leaf stays as it is.
        num_rows: Rows to keep.
        batch_size: Rows in the batch.
    """
    if isinstance(batch, torch.Tensor):
        return batch[:num_rows] if batch.dim() > 0 and batch.shape[0] == batch_size else batch
    if is_mapping(batch):
        return like(batch, {key: truncate_batch(value, num_rows, batch_size) for key, value in batch.items()})
    if is_object_list(batch, batch_size):
        return batch[:num_rows]
    if is_sequence(batch) and not hasattr(batch, "_fields"):
        return like(batch, [truncate_batch(value, num_rows, batch_size) for value in batch])
    return batch


def gather_rows(
    accelerator: Accelerator, data: object, num_real: list[int], *, padding: int = PADDING
) -> Any:
    """All ranks: gather the real rows of a nested structure from all ranks, in rank order.

    Args:
        accelerator: The accelerator of this rank.
        data: Tensors ``[rows, ...]``, which may differ between ranks in every dimension, and ``Objects``.
        num_real: Number of real rows on each rank, ``[world_size]``.
        padding: Value that fills a dimension that is shorter than on another rank.
    """
    if accelerator.num_processes == 1:
        return data

    def gather(leaf: Any) -> Any:
        if leaf is None:
            return None
        if isinstance(leaf, Objects):
            own = leaf.items[: num_real[accelerator.process_index]]
            return Objects(list(cast("list[Any]", gather_object(own))))
        if leaf.dim() == 0:
            return _gather_tensor(
                accelerator, leaf.reshape(1), [min(count, 1) for count in num_real], padding
            )
        return _gather_tensor(accelerator, leaf, num_real, padding)

    return map_leaves(gather, data)


def _gather_tensor(
    accelerator: Accelerator, data: torch.Tensor, num_real: list[int], padding: int
) -> torch.Tensor:
    gather = cast("Callable[[torch.Tensor], torch.Tensor]", accelerator.gather)
    shapes = gather(torch.tensor([data.shape], device=data.device))
    widest = cast("list[int]", shapes.max(dim=0).values.tolist())
    if list(data.shape) != widest:
        padded = data.new_full(widest, padding)
        padded[tuple(slice(size) for size in data.shape)] = data
        data = padded
    gathered = gather(data.contiguous())
    rows = cast("tuple[torch.Tensor, ...]", gathered.split(widest[0]))
    return torch.cat([part[:count] for part, count in zip(rows, num_real, strict=True)])
