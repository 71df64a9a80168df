"""Rows of batches: cutting off fill-ups before the forward pass, and gathering what is left over ranks.

A sample that only fills up the last round of batches is never shown to the model, so it can reach neither a loss
nor a metric, whatever the metric does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from raytrainer.evaluation.nest import Objects, map_leaves
from raytrainer.evaluation.spill import PADDING


def first_rows(data: Any, num_rows: int, batch_size: int) -> Any:
    """Keep the first rows of every tensor of a nested batch whose first dimension is the batch."""
    if isinstance(data, torch.Tensor):
        return data[:num_rows] if data.dim() > 0 and data.shape[0] == batch_size else data
    if isinstance(data, Mapping):
        return type(data)({key: first_rows(value, num_rows, batch_size) for key, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, list) and len(data) == batch_size and not any(map(torch.is_tensor, data)):
        return data[:num_rows]  # one object a sample
    if isinstance(data, tuple | list) and not hasattr(data, "_fields"):
        return type(data)(first_rows(value, num_rows, batch_size) for value in data)
    return data


def gather_rows(accelerator: Accelerator, data: Any, num_real: list[int], *, padding: int = PADDING) -> Any:
    """All ranks: the real rows of a nest, of all ranks, in rank order.

    Args:
        accelerator: Of this rank.
        data: Tensors ``[rows, ...]``, which may differ between ranks in every dimension, and ``Objects``.
        num_real: Rows of each rank that count.
        padding: What fills up a dimension that is shorter than another rank's.
    """
    if accelerator.num_processes == 1:
        return data

    def gather(leaf: Any) -> Any:
        if leaf is None:
            return None
        if isinstance(leaf, Objects):
            mine = leaf.items[: num_real[accelerator.process_index]]
            return Objects(list(gather_object(mine)))
        if leaf.dim() == 0:
            return _gather_tensor(
                accelerator, leaf.reshape(1), [min(count, 1) for count in num_real], padding
            )
        return _gather_tensor(accelerator, leaf, num_real, padding)

    return map_leaves(gather, data)


def _gather_tensor(
    accelerator: Accelerator, data: torch.Tensor, num_real: list[int], padding: int
) -> torch.Tensor:
    shapes: Any = accelerator.gather(torch.tensor([data.shape], device=data.device))
    widest = shapes.max(dim=0).values.tolist()
    if list(data.shape) != widest:
        padded = data.new_full(widest, padding)
        padded[tuple(slice(size) for size in data.shape)] = data
        data = padded
    gathered: Any = accelerator.gather(data.contiguous())
    rows = gathered.split(widest[0])
    return torch.cat([part[:count] for part, count in zip(rows, num_real, strict=True)])
