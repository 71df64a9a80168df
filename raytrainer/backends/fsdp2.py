"""Fully sharded data parallelism with FSDP2: parameters, gradients and optimizer state are DTensors over the ranks.

Each unit (a transformer block, say) is gathered before its forward and backward pass and freed after it.
Gradients are reduced to the rank's shard in every micro-batch, also while they accumulate, because full
gradients between micro-batches would cost the memory that sharding saves.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import (
    CPUOffloadPolicy,
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
)
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from raytrainer.backends.sharding_units import check_groups, choose_units
from raytrainer.checkpoint.model_files import load_model_weights, save_sharded_model
from raytrainer.checkpoint.optimizer_files import (
    ShardsOfFullState,
    load_saved_optimizer,
    save_optimizer_shards,
)
from raytrainer.checkpoint.optimizer_state import optimizer_state
from raytrainer.checkpoint.sharded_weights import gather_state_dict
from raytrainer.dialects.fsdp import ShardingOptions
from raytrainer.layout.ranks import join_group, sum_over_group
from raytrainer.telemetry.events import EngagedRow
from raytrainer.user_types import ProcessingClass

_NO_CONTEXT: AbstractContextManager[None] = nullcontext()


class FullyShardedBackend:
    """The backend of a run with ``fsdp``."""

    name = "fsdp2"
    rounds_weights = False

    def __init__(self, accelerator: Accelerator, options: ShardingOptions) -> None:
        self.accelerator = accelerator
        self._options = options
        self._parameters: list[nn.Parameter] = []
        self._num_units = 0
        join_group(accelerator.device)
        self._mesh = make_mesh(options, accelerator.device.type)

    # ---- wrapping -----------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module, *, reduces: bool = True) -> nn.Module:
        if not isinstance(model, FSDPModule):
            units = choose_units(model, self._options)
            self._num_units = len(units) + 1
            shared: dict[str, Any] = {
                "mesh": self._mesh,
                "reshard_after_forward": self._options.reshard_after_forward,
                "offload_policy": CPUOffloadPolicy() if self._offloads() else OffloadPolicy(),
            }
            for unit in units:
                fully_shard(unit, mp_policy=self._precision(), **shared)
            # Outputs to users, such as logits, are fp32; those between units are not.
            outermost = dataclasses.replace(self._precision(), output_dtype=torch.float32)
            fully_shard(model, mp_policy=outermost, **shared)
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model

    def wrap_optimizer(self, model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        return model, optimizer

    def unwrap(self, model: nn.Module) -> nn.Module:
        return model

    def evaluation_model(self, model: nn.Module, *, in_training: bool) -> nn.Module:
        return self.wrap(model)

    # ---- a step -------------------------------------------------------------------------------------------------

    def micro_batch(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        return _NO_CONTEXT

    def backward(self, loss: torch.Tensor, *, retain_graph: bool = False) -> None:
        loss.backward(retain_graph=retain_graph)

    def clip_grad_norm(self, model: nn.Module, max_norm: float | None) -> torch.Tensor:
        gradients = [parameter.grad for parameter in self._parameters if parameter.grad is not None]
        norm = nn.utils.get_total_norm(gradients)
        # All ranks: the norm of the shards becomes that of the full gradients.
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if max_norm is not None:
            nn.utils.clip_grads_with_norm_(self._parameters, max_norm, norm)
        return norm

    def norm_of_step(self, found: torch.Tensor) -> torch.Tensor:
        return found

    def follow_trainable(self, model: nn.Module) -> nn.Module:
        # A gathered parameter takes over whether its shard is trained.
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        return model

    def zero_grad(self, model: nn.Module) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def step_was_skipped(self) -> bool:
        return False

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        return sum_over_group(value)

    # ---- state --------------------------------------------------------------------------------------------------

    def save_model(
        self, model: nn.Module, directory: Path, *, processing_class: ProcessingClass | None = None
    ) -> None:
        save_sharded_model(model, directory, processing_class=processing_class)

    def load_model(self, model: nn.Module, directory: Path) -> None:
        load_model_weights(model, directory)

    def full_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return gather_state_dict(model)

    def save_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> list[Path]:
        return save_optimizer_shards(directory, optimizer_state(model, optimizer))

    def load_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> None:
        load_saved_optimizer(
            directory,
            state=optimizer_state(model, optimizer),
            full=ShardsOfFullState(optimizer),
            name=type(optimizer).__name__,
            device=self.accelerator.device,
        )

    def optimizer_groups(self, optimizer: Optimizer) -> list[list[nn.Parameter]]:
        return [group["params"] for group in optimizer.param_groups]

    # ---- proof --------------------------------------------------------------------------------------------------

    def engaged(self, model: nn.Module, requested_workers: int) -> list[EngagedRow]:
        parameters = list(model.parameters())
        whole = sum(parameter.numel() for parameter in parameters)
        local = sum(p.to_local().numel() if isinstance(p, DTensor) else p.numel() for p in parameters)
        is_sharded = isinstance(model, FSDPModule) and all(isinstance(p, DTensor) for p in parameters)
        sizes = dict(zip(self._mesh.mesh_dim_names or (), self._mesh.shape, strict=True))
        wanted_dtype = {"no": "float32", "bf16": "bfloat16"}[self.accelerator.mixed_precision]
        policy = self._precision()
        compute = policy.param_dtype or next(iter(parameters)).dtype
        reduce = policy.reduce_dtype or compute
        kind = "full shard" if self._options.reshard_after_forward else "shard grad op"
        kept = {p.device.type for p in parameters}
        return [
            EngagedRow(
                what="workers",
                requested=str(requested_workers),
                engaged=f"{dist.get_world_size()} x {self.accelerator.device.type}",
                ok=dist.get_world_size() == requested_workers,
            ),
            EngagedRow(
                what="backend",
                requested=f"fsdp, {'hybrid, ' if self._options.is_hybrid else ''}{kind}",
                engaged=f"FSDP2 ({dist.get_backend()}), {self._num_units} units, "
                + " x ".join(f"{size} {name}" for name, size in sizes.items()),
                ok=is_sharded,
            ),
            EngagedRow(
                what="shard",
                requested=f"1/{sizes['shard']} a rank",
                engaged=f"{local / 1e6:.2f} of {whole / 1e6:.2f} M parameters",
                # Each tensor is split by rows, so a rank may hold one row more than its share of each.
                ok=sizes["shard"] == 1 or local < whole,
            ),
            EngagedRow(
                what="precision",
                requested={"no": "fp32"}.get(
                    self.accelerator.mixed_precision, self.accelerator.mixed_precision
                ),
                engaged=f"{_short(compute)}, reduced in {_short(reduce)}",
                ok=_short(compute) == wanted_dtype,
            ),
            *(
                [
                    EngagedRow(
                        what="offload",
                        requested="cpu",
                        engaged=", ".join(sorted(kept)),
                        ok=kept == {"cpu"},
                    )
                ]
                if self._options.cpu_offload
                else []
            ),
        ]

    # ---- inside -------------------------------------------------------------------------------------------------

    def _precision(self) -> MixedPrecisionPolicy:
        if self.accelerator.mixed_precision == "bf16":
            # Gathered parameters are bf16 while they are used; shards, gradients and sums stay fp32.
            return MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
        return MixedPrecisionPolicy()

    def _offloads(self) -> bool:
        # On a CPU everything is in CPU memory already.
        return self._options.cpu_offload and self.accelerator.device.type != "cpu"


def make_mesh(options: ShardingOptions, device_type: str) -> DeviceMesh:
    """All ranks: the mesh over which parameters are sharded, and replicated if that was asked for.

    Raises:
        ConfigurationError: If the ranks do not divide into groups.
    """
    world_size = dist.get_world_size()
    if not options.is_hybrid:
        return init_device_mesh(device_type, (world_size,), mesh_dim_names=("shard",))
    size = options.hybrid_shard_size or int(os.environ.get("LOCAL_WORLD_SIZE", world_size))
    check_groups(world_size, size)
    return init_device_mesh(device_type, (world_size // size, size), mesh_dim_names=("replicate", "shard"))


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
