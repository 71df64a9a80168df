"""The properties of arguments that depend on the process: device, rank, world size, batch sizes.

Before ``resolve`` they have the values of a driver: the CPU, and the rank from a launcher's environment variables, if
there are any. After it they come from the placement. Reading them never initializes a device, a process group or an
Accelerate state, and a pickle or a copy of bound arguments is not bound.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from transformers.training_args import ParallelMode
from transformers.utils.import_utils import enable_tf32, is_torch_bf16_gpu_available, is_torch_tf32_available

from raytrainer.arguments.accelerator_config import check_split, config_of
from raytrainer.arguments.launched import join_group, launched
from raytrainer.arguments.placement import Placement
from raytrainer.arguments.unbound_state import UnboundState
from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


class BoundToProcess:
    """The part of the arguments that depends on the process; mixed into ``TrainingArguments``."""

    def resolve(self, placement: Placement) -> None:
        """Bind the arguments to a process, and check that its device supports what they ask for.

        Args:
            placement: Rank and device of the process. Binding to the same one again changes nothing; a different one
                replaces the first.

        Raises:
            ConfigurationError: If the device does not support what was asked for.
        """
        args = self._arguments
        if self.placement == placement:
            return
        check_device(args, placement)
        check_split(args, placement.world_size)
        self._put_back()
        kind = placement.device.type
        bound: dict[str, Any] = {}
        if (
            kind == "mps"
            and args.dataloader_num_workers > 1
            and args.dataloader_multiprocessing_context is None
        ):
            bound["dataloader_multiprocessing_context"] = "fork"
        self.__dict__["_unbound"] = {name: getattr(args, name) for name in bound}
        self.__dict__.update(bound)
        if args.tf32 is not None and is_torch_tf32_available():
            enable_tf32(args.tf32)
        self.__dict__["_placement"] = placement

    @property
    def _arguments(self) -> TrainingArguments:
        return cast("TrainingArguments", self)

    @property
    def placement(self) -> Placement | None:
        """Rank and device of this process, or None before ``resolve``."""
        return self.__dict__.get("_placement")

    @property
    def is_resolved(self) -> bool:
        """Whether the arguments are bound to a process."""
        return self.placement is not None

    def change(self, values: Mapping[str, object]) -> None:
        """Set fields of arguments that may be bound, and bind them again as they were.

        Args:
            values: Field -> value.

        Raises:
            ConfigurationError: If the device does not support what they ask for.
        """
        placement = self.placement
        self._put_back()
        self.__dict__.update(values)
        if placement is not None:
            self.resolve(placement)

    def _put_back(self) -> None:
        self.__dict__.update(self.__dict__.pop("_unbound", {}))
        self.__dict__.pop("_placement", None)

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state.update(state.pop("_unbound", {}))
        state.pop("_placement", None)
        return state

    @property
    def device(self) -> torch.device:
        """The device of this process; the CPU before ``resolve``."""
        return self.placement.device if self.placement is not None else torch.device("cpu")

    @property
    def n_gpu(self) -> int:
        """1 on an accelerator, 0 on CPU and before ``resolve``; never more, since a worker has one device."""
        return self.placement.num_gpus if self.placement is not None else 0

    @property
    def world_size(self) -> int:
        """Number of processes; before ``resolve`` that of the launcher, else the largest requested number, or 1."""
        if self.placement is not None:
            return self.placement.world_size
        return launched("WORLD_SIZE") or self._arguments.max_workers or 1

    @property
    def process_index(self) -> int:
        """Rank of this process; before ``resolve`` that of the launcher, or 0."""
        return self.placement.rank if self.placement is not None else launched("RANK") or 0

    @property
    def local_process_index(self) -> int:
        """Rank of this process on its node; before ``resolve`` that of the launcher, or 0."""
        return self.placement.local_rank if self.placement is not None else launched("LOCAL_RANK") or 0

    @property
    def parallel_mode(self) -> ParallelMode:
        """``DISTRIBUTED`` with several processes; ``NOT_DISTRIBUTED`` (one process, several GPUs) does not occur."""
        return ParallelMode.DISTRIBUTED if self.world_size > 1 else ParallelMode.NOT_PARALLEL

    @property
    def distributed_state(self) -> PartialState:
        """Accelerate's state of this process, made when first read; before ``resolve`` that of a driver or a script.

        Under a launcher, reading it joins the process group.
        """
        if self.placement is None:
            return UnboundState(self._arguments)
        return PartialState(cpu=self.device.type == "cpu")

    @property
    def train_batch_size(self) -> int:
        """Samples of a micro-batch in one process."""
        return self._part(self._arguments.per_device_train_batch_size)

    @property
    def eval_batch_size(self) -> int:
        """Samples of an evaluation batch in one process."""
        return self._part(self._arguments.per_device_eval_batch_size)

    def _part(self, batch_size: int) -> int:
        """The share of this process in a batch that ``split_batches`` divides among all processes."""
        splits = config_of(self._arguments).split_batches
        return batch_size // self.world_size if splits else batch_size

    @contextlib.contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Generator[None]:
        """All ranks: let the main process run the block before the others do.

        Args:
            local: Whether the main process of each node goes first, rather than only that of the run.
            desc: A description of the block, for readers of the code.
        """
        # A driver has no other process to wait for; a launcher's rank has, whether a trainer is bound to it or not.
        is_rank = self.placement is not None
        if not is_rank and launched("WORLD_SIZE") is not None:
            join_group(self._arguments)
            is_rank = True
        waits = is_rank and self.world_size > 1 and dist.is_initialized()
        is_main = (self.local_process_index if local else self.process_index) == 0
        if waits and not is_main:
            dist.barrier()
        try:
            yield
        finally:
            if waits and is_main:
                dist.barrier()


def check_device(args: TrainingArguments, placement: Placement) -> None:
    """Refuse what the device of a process does not support, instead of silently doing something else.

    Raises:
        ConfigurationError: If the device does not support what the arguments ask for.
    """
    device = placement.device
    here = f"rank {placement.rank} runs on {device}"
    if device.type == "cpu":
        if args.use_gpu:
            raise ConfigurationError(
                f"use_gpu=True, but {here}, where no GPU is visible. Check CUDA_VISIBLE_DEVICES and the "
                "driver of that node, or leave use_gpu out."
            )
        if args.mixed_precision == "fp16":
            raise ConfigurationError(
                f"fp16 was asked for, but {here}: fp16 training needs a GPU; on a CPU it would silently be "
                "fp32. Use bf16=True, or train on GPUs."
            )
    elif args.use_cpu:
        raise ConfigurationError(f"use_cpu=True, but {here}. Run it on a CPU, or leave use_cpu out.")
    elif (
        args.bf16 or args.bf16_full_eval or args.mixed_precision == "bf16"
    ) and not is_torch_bf16_gpu_available():
        raise ConfigurationError(
            f"bf16 was asked for, but {here}, which does not support bf16 (on NVIDIA, Ampere or newer does). Use "
            "fp16=True, or place the workers on other GPUs with accelerator_type=."
        )
    if args.tf32 and (device.type == "cpu" or not is_torch_tf32_available()):
        raise ConfigurationError(
            f"tf32=True, but {here}, which does not support TF32 (on NVIDIA, Ampere or newer does). Leave tf32 out."
        )
