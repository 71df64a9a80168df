"""Where DeepSpeed's ZeRO keeps what it has cut: the one file that knows its insides.

Under ZeRO an optimizer steps flat tensors ("flats"), each the run of elements of several parameters that this rank
owns. Under stage 3 the parameters themselves are runs too, equally long on every rank, the last one filled up. A
``Home`` says where a parameter's run lies in a flat, and which elements of the parameter it is; so weights and state
are read and written by name, without sending anything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where this rank's run of a parameter lies."""

    flat: torch.Tensor
    """What the optimizer steps; its state has this tensor as key."""
    offset: int
    """Of the run's first element in the flat."""
    start: int
    """Of the run's first element in the parameter, counted in row-major order."""
    numel: int

    def part(self, flat: torch.Tensor) -> torch.Tensor:
        """The run in the flat, or in a state tensor of its size."""
        return flat.detach().narrow(0, self.offset, self.numel)


def is_zero(tensor: Any) -> bool:
    """Whether ZeRO has cut a parameter, or its optimizer state."""
    return hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping")


def is_cut(tensor: Any) -> bool:
    """Whether ZeRO has cut the parameter itself (stage 3)."""
    return hasattr(tensor, "ds_id")


def zero_of(optimizer: Any) -> Any:
    """DeepSpeed's ZeRO optimizer behind the one that the loop steps, or None."""
    return getattr(optimizer, "zero", None)


def home_of(parameter: Any) -> Home | None:
    """Where this rank's run lies; None for what no optimizer steps, and for a parameter that others own."""
    if is_cut(parameter):
        zero = getattr(parameter, "_z3_optimizer", None)
        if zero is None or not parameter.requires_grad:
            return None
        flat_number, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
        start, numel = _run(parameter)
        flat = zero.fp32_partitioned_groups_flat[flat_number]
        return Home(flat=flat, offset=offset, start=start, numel=numel) if numel else None
    mapping = getattr(parameter, "_hp_mapping", None)
    if mapping is None:
        return None
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    flat = parameter._zero_optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    return Home(flat=flat, offset=here.start, start=there.start, numel=there.numel)


def run_of(parameter: Any) -> tuple[torch.Tensor, int]:
    """This rank's run of a parameter's values, in the precision that is trained, and its first element.

    Under stage 1 and 2 every rank has the whole parameter, but of the master weights the run that it steps.
    """
    home = home_of(parameter)
    if home is not None:
        return home.part(home.flat), home.start
    if is_cut(parameter):
        start, numel = _run(parameter)
        return parameter.ds_tensor.detach().narrow(0, 0, numel), start
    return parameter.detach().reshape(-1)[:0], 0


def whole_of(parameter: Any) -> torch.Tensor:
    """All ranks: the whole of a parameter, in the precision that is trained."""
    if not is_cut(parameter) and saved_dtype(parameter) == parameter.dtype:
        return parameter.detach()
    from deepspeed.runtime.zero.partition_parameters import GatheredParameters
    from deepspeed.utils import safe_get_full_fp32_param

    is_stepped = parameter.requires_grad and getattr(parameter, "_z3_optimizer", None) is not None
    if is_cut(parameter) and not is_stepped:
        with GatheredParameters([parameter]):
            return parameter.detach().clone()
    found = safe_get_full_fp32_param(parameter)
    assert found is not None
    return found.detach().reshape(shape_of(parameter))


def shape_of(tensor: Any) -> torch.Size:
    """The shape of the whole."""
    return torch.Size(tensor.ds_shape) if is_cut(tensor) else tensor.shape


def saved_dtype(tensor: Any) -> torch.dtype:
    """The dtype that is trained: that of the master weights where there are any."""
    zero = getattr(tensor, "_z3_optimizer", None) or getattr(tensor, "_zero_optimizer", None)
    if zero is None or not tensor.requires_grad:
        return tensor.dtype
    flats = zero.fp32_partitioned_groups_flat if is_cut(tensor) else zero.single_partition_of_fp32_groups
    return flats[0].dtype


def publish(model: nn.Module) -> None:
    """All ranks: after the master weights have changed, bring them into what is computed with."""
    parameters: list[Any] = [parameter for parameter in model.parameters() if is_zero(parameter)]
    with torch.no_grad():
        for parameter in parameters:
            home = home_of(parameter) if is_cut(parameter) else None
            if home is not None:
                parameter.ds_tensor.narrow(0, 0, home.numel).copy_(home.part(home.flat))
    # Small parameters stay whole on every rank between steps.
    for zero in _optimizers(parameters):
        kept: list[Any] = getattr(zero, "persistent_parameters", None) or []
        if kept:
            kept[0].partition(kept)
            kept[0].all_gather(kept)
        elif hasattr(zero, "update_lp_params"):
            zero.update_lp_params()


def groups_of(zero: Any) -> list[list[Any]]:
    """The model's parameters, in the order and the groups that the optimizer was given them."""
    if not hasattr(zero, "fp16_groups"):
        return [list(group) for group in zero.bit16_groups]
    # Stage 3 cuts groups into smaller ones.
    groups: list[list[Any]] = [[] for _ in zero.optimizer.param_groups]
    for number, members in enumerate(zero.fp16_groups):
        groups[zero.sub_group_to_group_id[number]].extend(members)
    return groups


@contextlib.contextmanager
def made_whole() -> Iterator[None]:
    """While it lasts, ``from_pretrained`` makes whole models, also under stage 3."""
    from transformers.integrations import deepspeed as integration

    reference = getattr(integration, "_hf_deepspeed_config_weak_ref", None)
    integration._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = reference


def _optimizers(parameters: list[Any]) -> list[Any]:
    found: dict[int, Any] = {}
    for parameter in parameters:
        zero = getattr(parameter, "_z3_optimizer", None) or getattr(parameter, "_zero_optimizer", None)
        if zero is not None:
            found[id(zero)] = zero
    return list(found.values())


def _run(parameter: Any) -> tuple[int, int]:
    """First element and number of elements that this rank holds of a parameter under stage 3, without filling."""
    length = parameter.partition_numel()
    start = length * dist.get_rank(group=parameter.ds_process_group)
    return start, max(0, min(length, parameter.ds_numel - start))
