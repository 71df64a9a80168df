"""Where DeepSpeed's ZeRO keeps what it has partitioned: the one file that knows its internals.

Under ZeRO an optimizer steps flat tensors ("flats"), each holding the runs of elements of several parameters that
this rank owns. Under stage 3 the parameters themselves are runs too, equally long on every rank, the last one padded.
A ``Home`` says where a parameter's run is in a flat, and which elements of the parameter it holds. So weights and state
are read and written by name, without communication.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from raytrainer.layout.shards import LocalShard
from raytrainer.layout.tensor_layout import TensorLayout, register_layout


@dataclass(frozen=True, kw_only=True, slots=True)
class Home:
    """Where this rank's run of a parameter is."""

    flat: torch.Tensor
    """[elements]; what the optimizer steps, and the key of its state."""
    offset: int
    """Index of the run's first element in the flat."""
    start: int
    """Index of the run's first element in the parameter, flattened in row-major order."""
    numel: int

    def part(self, flat: torch.Tensor) -> torch.Tensor:
        """The run, [numel], in the flat or in a state tensor of its size."""
        return flat.detach().narrow(0, self.offset, self.numel)


class FlatRuns(TensorLayout):
    """Parameters that ZeRO partitions (stage 3), or whose master copies it partitions (stages 1 and 2)."""

    def covers(self, tensor: torch.Tensor) -> bool:
        return hasattr(tensor, "ds_id") or hasattr(tensor, "_hp_mapping")

    def is_sharded(self, tensor: torch.Tensor) -> bool:
        return _is_partitioned(tensor)

    def full_shape(self, tensor: Any) -> torch.Size:
        return torch.Size(tensor.ds_shape) if _is_partitioned(tensor) else tensor.shape

    def trained_dtype(self, tensor: torch.Tensor) -> torch.dtype:
        zero = _optimizer_of(tensor)
        if zero is None or not tensor.requires_grad:
            return tensor.dtype
        return flats_of(zero)[0].dtype

    def local_shard(self, tensor: Any) -> LocalShard:
        # Under stages 1 and 2 every rank has the full parameter, but of the master copy only the run that it steps.
        home = home_of(tensor)
        if home is not None:
            return LocalShard(values=home.part(home.flat), start=home.start)
        if _is_partitioned(tensor):
            start, numel = _run_of(tensor)
            return LocalShard(values=tensor.ds_tensor.detach().narrow(0, 0, numel), start=start)
        return LocalShard(values=tensor.detach().reshape(-1)[:0])

    def full_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        if not _is_partitioned(tensor) and self.trained_dtype(tensor) == tensor.dtype:
            return tensor.detach()
        from deepspeed import utils
        from deepspeed.runtime.zero.partition_parameters import GatheredParameters

        if _is_partitioned(tensor) and not _is_stepped(tensor):
            with GatheredParameters([tensor]):
                return tensor.detach().clone()
        untyped: Any = utils
        found: torch.Tensor | None = untyped.safe_get_full_fp32_param(tensor)
        assert found is not None
        return found.detach().reshape(self.full_shape(tensor))

    @contextlib.contextmanager
    def writable(self, parameter: Any) -> Generator[None]:
        # DeepSpeed gathers a parameter for the passes through its module and then frees it; what lasts is each rank's
        # run, ``ds_tensor``.
        if not _is_partitioned(parameter):
            yield
            return
        was_gathered = parameter.ds_status.name == "AVAILABLE"
        if not was_gathered:
            parameter.all_gather([parameter])
        yield
        _write_own_run(parameter)
        if not was_gathered:
            parameter.partition([parameter], has_been_updated=False)

    def publish(self, model: nn.Module) -> None:
        parameters: list[Any] = [parameter for parameter in model.parameters() if self.covers(parameter)]
        with torch.no_grad():
            for parameter in parameters:
                home = home_of(parameter) if _is_partitioned(parameter) else None
                if home is not None:
                    parameter.ds_tensor.narrow(0, 0, home.numel).copy_(home.part(home.flat))
        # Small parameters stay gathered on every rank between steps.
        zeros = {id(zero): zero for zero in map(_optimizer_of, parameters) if zero is not None}
        for zero in zeros.values():
            kept: list[Any] = getattr(zero, "persistent_parameters", None) or []
            if kept:
                kept[0].partition(kept)
                kept[0].all_gather(kept)
            elif hasattr(zero, "update_lp_params"):
                zero.update_lp_params()


register_layout(FlatRuns())


def home_of(parameter: Any) -> Home | None:
    """Where this rank's run is; None for a parameter that no optimizer steps, or that other ranks own."""
    if _is_partitioned(parameter):
        if not _is_stepped(parameter):
            return None
        zero = parameter._z3_optimizer
        flat_number, offset, _ = zero.grad_position[zero.get_param_id(parameter)]
        start, numel = _run_of(parameter)
        flat = zero.fp32_partitioned_groups_flat[flat_number]
        return Home(flat=flat, offset=offset, start=start, numel=numel) if numel else None
    mapping = getattr(parameter, "_hp_mapping", None)
    if mapping is None:
        return None
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    flat = parameter._zero_optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
    return Home(flat=flat, offset=here.start, start=there.start, numel=there.numel)


def _is_stepped(parameter: Any) -> bool:
    """Whether a stage 3 parameter can be trained, and the optimizer was given it."""
    zero = getattr(parameter, "_z3_optimizer", None)
    return zero is not None and parameter.requires_grad and zero.get_param_id(parameter) in zero.grad_position


def flats_of(zero: Any) -> list[torch.Tensor]:
    """The flats that a ZeRO optimizer steps on this rank, each [elements]."""
    if hasattr(zero, "fp32_partitioned_groups_flat"):
        return zero.fp32_partitioned_groups_flat
    return zero.single_partition_of_fp32_groups


def groups_of(zero: Any) -> list[list[nn.Parameter]]:
    """The model's parameters, in the order and the groups in which the optimizer was given them."""
    if not hasattr(zero, "fp16_groups"):
        return [list(group) for group in zero.bit16_groups]
    # Stage 3 splits groups into smaller ones.
    groups: list[list[nn.Parameter]] = [[] for _ in zero.optimizer.param_groups]
    sub_groups: list[list[nn.Parameter]] = zero.fp16_groups
    for number, members in enumerate(sub_groups):
        group: int = zero.sub_group_to_group_id[number]
        groups[group].extend(members)
    return groups


def counts_steps_in_python(optimizer: torch.optim.Optimizer) -> bool:
    """Whether an optimizer under ZeRO keeps its number of steps as a Python int: DeepSpeed's own do, torch's do not."""
    return type(optimizer).__module__.startswith("deepspeed.")


def mark_owner(zero: Any) -> None:
    """Let every parameter of stage 1 or 2 know its ZeRO optimizer.

    DeepSpeed marks only those of which this rank steps a part, and ranks must agree on what is partitioned.
    """
    for group in getattr(zero, "bit16_groups", []):
        for parameter in group:
            parameter._zero_optimizer = zero


def shard_size(zero: Any, stage: int) -> tuple[str, int, int]:
    """What is partitioned, how much of it this rank holds, and the total [elements]."""
    if type(zero).__name__ == "DeepSpeedZeRoOffload":
        parameters: list[Any] = list(zero.module.parameters())
        return "parameters", sum(p.ds_tensor.numel() for p in parameters), sum(p.ds_numel for p in parameters)
    own = sum(flat.numel() for flat in flats_of(zero))
    if stage == 3:
        total = sum(parameter.ds_numel for group in zero.fp16_groups for parameter in group)
        return "parameters, gradients, state", own, total
    total = sum(parameter.numel() for group in zero.bit16_groups for parameter in group)
    return "gradients, state" if stage == 2 else "state", own, total


@contextlib.contextmanager
def whole_models() -> Generator[None]:
    """Inside the block, ``from_pretrained`` builds full models, even under stage 3."""
    from transformers.integrations import deepspeed as integration

    reference = getattr(integration, "_hf_deepspeed_config_weak_ref", None)
    integration._hf_deepspeed_config_weak_ref = None
    try:
        yield
    finally:
        integration._hf_deepspeed_config_weak_ref = reference


def _is_partitioned(tensor: torch.Tensor) -> bool:
    """Whether ZeRO has partitioned the parameter itself (stage 3)."""
    return hasattr(tensor, "ds_id")


def _optimizer_of(parameter: torch.Tensor) -> Any:
    return getattr(parameter, "_z3_optimizer", None) or getattr(parameter, "_zero_optimizer", None)


def _run_of(parameter: Any) -> tuple[int, int]:
    """First element and number of elements, without padding, that this rank holds of a stage 3 parameter."""
    length = parameter.partition_numel()
    start = length * dist.get_rank(group=parameter.ds_process_group)
    return start, max(0, min(length, parameter.ds_numel - start))


def _write_own_run(parameter: Any) -> None:
    run = parameter.ds_tensor
    begin = run.numel() * parameter.ds_process_group.rank()
    values = parameter.data.reshape(-1)[begin : begin + run.numel()]
    run.data.reshape(-1)[: values.numel()].copy_(values)
