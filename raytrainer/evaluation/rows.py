"""Rows of batches: cutting off fill-ups before the forward pass, and gathering what is left over ranks.

A sample that only fills up the last round of batches is never shown to the model, so it can reach neither a loss
nor a metric, whatever the metric does.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from accelerate import Accelerator


def first_rows(data: Any, num_rows: int, batch_size: int) -> Any:
    """Keep the first rows of every tensor of a nested batch whose first dimension is the batch."""
    if isinstance(data, torch.Tensor):
        return data[:num_rows] if data.dim() > 0 and data.shape[0] == batch_size else data
    if isinstance(data, Mapping):
        return type(data)({key: first_rows(value, num_rows, batch_size) for key, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, tuple | list) and not hasattr(data, "_fields"):
        return type(data)(first_rows(value, num_rows, batch_size) for value in data)
    return data


def gather_rows(accelerator: Accelerator, data: Any, num_real: list[int]) -> Any:
    """All ranks: the real rows of a nested structure of tensors, of all ranks, in rank order.

    Args:
        accelerator: Of this rank.
        data: Tensors ``[rows, ...]``; ranks may differ in rows and in the second dimension.
        num_real: Rows of each rank that count.
    """
    if accelerator.num_processes == 1:
        return data
    if isinstance(data, tuple | list):
        return type(data)(gather_rows(accelerator, part, num_real) for part in data)
    if isinstance(data, Mapping):
        return type(data)({key: gather_rows(accelerator, part, num_real) for key, part in data.items()})  # type: ignore[call-arg]
    if data.dim() == 0:
        data = data.reshape(1)
        num_real = [1] * len(num_real)
    if data.dim() > 1:
        data = accelerator.pad_across_processes(data, dim=1, pad_index=-100)
    data = accelerator.pad_across_processes(data, dim=0, pad_index=-100)
    rows = accelerator.gather(data.contiguous()).split(data.shape[0])  # pyright: ignore[reportAttributeAccessIssue]
    return torch.cat([part[:count] for part, count in zip(rows, num_real, strict=True)])
