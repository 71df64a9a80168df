"""Accelerate's state of a process that no trainer is bound to yet: of a driver, or of a script before ``train()``.

The driver of Ray workers is one process on its CPU that acts for all ranks: it is the main process and the last one,
and waits for nobody. Its number of processes is that of the workers, because scripts compute batch sizes from it.
Under a launcher the state is that of the rank, which waits for the others.

No device is looked for. The process group is joined under a launcher only.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from raytrainer.arguments.launched import join_group, launched, trains_on_gpu

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments


class UnboundState(PartialState):
    """The state of a process before ``resolve``; it belongs to one object, not to the process as its base class does.

    Args:
        args: Say how many workers there will be; under a launcher, whether ranks use their CPUs.
    """

    # Not the shared dictionary of the base class: another trainer of this process may have made that one.
    def __init__(self, args: TrainingArguments) -> None:
        self._cpu = True
        self.debug = False
        self.fork_launched = False
        self.device = torch.device("cpu")
        self.backend = None
        self.distributed_type = DistributedType.NO
        self.num_processes: int = args.world_size
        self.process_index: int = args.process_index
        self.local_process_index: int = args.local_process_index
        if launched("WORLD_SIZE") is not None:
            joined = _join(args)
            self.backend, self.distributed_type = joined.backend, joined.distributed_type

    @property
    def initialized(self) -> bool:
        """Always: the base class asks whether there is a state of the process."""
        return True

    @property
    def is_last_process(self) -> bool:
        """Whether nobody comes after this process; a driver acts for all ranks."""
        return not self.use_distributed or self.process_index == self.num_processes - 1

    @contextlib.contextmanager
    def split_between_processes(self, inputs: Any, apply_padding: bool = False) -> Generator[Any]:
        """Give this process its share of the inputs; a driver gets all of them."""
        if not self.use_distributed:
            yield inputs
            return
        with cast("Any", super()).split_between_processes(inputs, apply_padding=apply_padding) as share:
            yield share


def share_with_process(state: UnboundState) -> None:
    """Make the functions of accelerate that ask for the state of the process work, as its loggers do.

    A state that exists is left alone. A backend replaces it when a trainer is bound.

    Args:
        state: Of this process; the one that is shared counts one process where it acts for all ranks.
    """
    if PartialState._shared_state == {} and not state.use_distributed:
        alone = {**vars(state), "num_processes": 1}
        PartialState._shared_state.update(alone)


def _join(args: TrainingArguments) -> PartialState:
    """All ranks of a launcher: join the group, and return Accelerate's own state of this process."""
    join_group(args)
    return PartialState(cpu=not trains_on_gpu(args))
