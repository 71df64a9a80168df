"""What arguments know of the process that they are bound to.

Before ``resolve`` the answers are those of a driver: the CPU, and the rank that a launcher wrote into the environment,
if one did. After it they come from the placement. Reading any of them never initialises a device, a process group or
an Accelerate state, and a pickle or a copy of bound arguments is not bound.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from accelerate import PartialState
from transformers.training_args import ParallelMode
from transformers.utils import is_torch_bf16_gpu_available, is_torch_tf32_available
from transformers.utils.import_utils import enable_tf32

from raytrainer.arguments.accelerator_config import check_split
from raytrainer.arguments.placement import Placement
from raytrainer.errors import ConfigurationError

_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Set by ``torchrun`` and ``accelerate launch``: a script knows its rank before anything is made."""


def _launched(name: str) -> int | None:
    if all(os.environ.get(variable) for variable in _LAUNCHED):
        return int(os.environ[name])
    return None


class BoundToProcess:
    """The part of the arguments that belongs to one process; mixed into ``TrainingArguments``."""

    def resolve(self, placement: Placement) -> None:
        """Bind the arguments to a process, and check that its device can do what they ask for.

        Args:
            placement: Where the process stands. The same one again changes nothing, another one binds anew.

        Raises:
            ConfigurationError: If the device cannot do what was asked for.
        """
        args: Any = self
        if self.placement == placement:
            return
        check_device(args, placement)
        check_split(args, placement.world_size)
        self._put_back()
        kind = placement.device.type
        bound: dict[str, Any] = {}
        if kind == "cpu":
            bound["dataloader_pin_memory"] = False
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
    def placement(self) -> Placement | None:
        """Where this process stands, or None before ``resolve``."""
        return self.__dict__.get("_placement")

    @property
    def is_resolved(self) -> bool:
        """Whether the arguments are bound to a process."""
        return self.placement is not None

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
        """1 on an accelerator, 0 on CPU and before ``resolve``; never several, since workers have one device each."""
        return self.placement.num_gpus if self.placement is not None else 0

    @property
    def world_size(self) -> int:
        """Number of processes; before ``resolve`` the launcher's, else the requested number of workers, or 1."""
        if self.placement is not None:
            return self.placement.world_size
        args: Any = self
        return _launched("WORLD_SIZE") or args.num_workers or 1

    @property
    def process_index(self) -> int:
        """Rank of this process; before ``resolve`` the launcher's, or 0."""
        return self.placement.rank if self.placement is not None else _launched("RANK") or 0

    @property
    def local_process_index(self) -> int:
        """Rank of this process on its node; before ``resolve`` the launcher's, or 0."""
        return self.placement.local_rank if self.placement is not None else _launched("LOCAL_RANK") or 0

    @property
    def parallel_mode(self) -> ParallelMode:
        """``DISTRIBUTED`` with several processes; ``NOT_DISTRIBUTED`` (one process, several GPUs) never happens."""
        return ParallelMode.DISTRIBUTED if self.world_size > 1 else ParallelMode.NOT_PARALLEL

    @property
    def distributed_state(self) -> PartialState | None:
        """Accelerate's state of this process, made when first read; None before ``resolve``."""
        if self.placement is None:
            return None
        return PartialState(cpu=self.device.type == "cpu")

    @property
    def train_batch_size(self) -> int:
        """Samples of a micro-batch in one process."""
        return self._part(self.per_device_train_batch_size)  # type: ignore[attr-defined]

    @property
    def eval_batch_size(self) -> int:
        """Samples of an evaluation batch in one process."""
        return self._part(self.per_device_eval_batch_size)  # type: ignore[attr-defined]

    def _part(self, batch_size: int) -> int:
        """A process's part of a batch that ``split_batches`` cuts for all of them."""
        splits = self.accelerator_config.split_batches  # type: ignore[attr-defined]
        return batch_size // self.world_size if splits else batch_size

    @contextlib.contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """All ranks: let the main process do something before the others do it.

        Args:
            local: The main process of each node goes first, else that of the run.
            desc: What is done, for readers of the code.
        """
        # Before `resolve`, and where no group exists, there is nobody to wait for.
        waits = self.placement is not None and self.placement.world_size > 1 and dist.is_initialized()
        is_main = (self.local_process_index if local else self.process_index) == 0
        if waits and not is_main:
            dist.barrier()
        try:
            yield
        finally:
            if waits and is_main:
                dist.barrier()


def check_device(args: Any, placement: Placement) -> None:
    """Refuse what the device of a process cannot do, instead of quietly doing something else.

    Raises:
        ConfigurationError: If the arguments ask for more than the device can.
    """
    device = placement.device
    here = f"rank {placement.rank} runs on {device}"
    if device.type == "cpu":
        if args.use_gpu:
            raise ConfigurationError(
                f"use_gpu=True, but {here}: no GPU is visible to it. Check CUDA_VISIBLE_DEVICES and the "
                "driver on that node, or leave use_gpu out."
            )
        if args.mixed_precision == "fp16":
            raise ConfigurationError(
                f"fp16 was asked for, but {here}: fp16 training needs a GPU, on CPU it would quietly be "
                "fp32. Use bf16=True, or train on GPUs."
            )
    elif args.use_cpu:
        raise ConfigurationError(f"use_cpu=True, but {here}. Place it on the CPU, or leave use_cpu out.")
    elif (
        args.bf16 or args.bf16_full_eval or args.mixed_precision == "bf16"
    ) and not is_torch_bf16_gpu_available():
        raise ConfigurationError(
            f"bf16 was asked for, but {here}, which does not do bf16 (NVIDIA: Ampere or newer). Use "
            "fp16=True there, or place workers on other GPUs with accelerator_type=."
        )
    if args.tf32 and (device.type == "cpu" or not is_torch_tf32_available()):
        raise ConfigurationError(
            f"tf32=True, but {here}, which has no TF32 mode (NVIDIA: Ampere or newer). Leave tf32 out."
        )
