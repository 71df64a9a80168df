"""Parameters that DeepSpeed has cut (ZeRO 3), seen by an optimizer that updates in the backward pass.

DeepSpeed gathers a parameter for the passes through its module and then frees it; what lasts is each rank's run of
elements, ``ds_tensor``. A hook that has changed the whole parameter writes its rank's run. Nothing here imports
DeepSpeed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


def is_zero3(parameter: Any) -> bool:
    """Whether ZeRO has cut a parameter."""
    return hasattr(parameter, "ds_tensor")


def shape_of(parameter: Any) -> torch.Size:
    """Of the whole parameter."""
    return torch.Size(getattr(parameter, "ds_shape", parameter.shape))


@contextlib.contextmanager
def whole(parameter: Any) -> Iterator[None]:
    """All ranks: the parameter is whole inside, and what is changed in it lasts."""
    if not is_zero3(parameter):
        yield
        return
    was_gathered = parameter.ds_status.name == "AVAILABLE"
    if not was_gathered:
        parameter.all_gather([parameter])
    yield
    _write_own_run(parameter)
    if not was_gathered:
        parameter.partition([parameter], has_been_updated=False)


def _write_own_run(parameter: Any) -> None:
    run = parameter.ds_tensor
    begin = run.numel() * parameter.ds_process_group.rank()
    values = parameter.data.reshape(-1)[begin : begin + run.numel()]
    run.data.reshape(-1)[: values.numel()].copy_(values)
