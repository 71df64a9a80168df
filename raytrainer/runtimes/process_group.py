"""The runtime of a rank that ``torchrun`` or ``accelerate launch`` started: a process group, no Ray."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Generator, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist

from raytrainer.arguments.launched import join_group
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.interrupts import Heard, interrupts

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

T = TypeVar("T")


class CollectiveRuntime:
    """Collectives over torch.distributed for small Python values; the base of the runtimes with several ranks.

    They run over gloo even where tensors use NCCL, so that agreeing on a flag never waits for a device.
    """

    rank: int
    world_size: int
    _group: dist.ProcessGroup | None

    def open_group(self, timeout_s: float) -> None:
        """All ranks: use the default group if it is gloo, else create a gloo group beside it."""
        self._numbers = torch.zeros(16, dtype=torch.int64)
        self._number_values = self._numbers.numpy()
        if self.world_size == 1 and not dist.is_initialized():
            self._group = None
        elif dist.get_backend() == "gloo":
            self._group = dist.group.WORLD
        else:
            timeout = timedelta(seconds=timeout_s)
            group = dist.new_group(backend="gloo", timeout=timeout)
            assert isinstance(group, dist.ProcessGroup)
            self._group = group

    def barrier(self) -> None:
        if self.world_size > 1:
            dist.barrier(group=self._group)

    def broadcast(self, value: T) -> T:
        if self.world_size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, group=self._group, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: T) -> list[T] | None:
        if self.world_size == 1:
            return [value]
        values: list[T] | None = [value] * self.world_size if self.rank == 0 else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values

    def scatter(self, values: Sequence[T] | None) -> T:
        if self.world_size == 1:
            assert values is not None
            return values[0]
        box: list[Any] = [None]
        dist.scatter_object_list(box, None if values is None else list(values), src=0, group=self._group)
        return box[0]

    def agree(self, flags: Sequence[int]) -> list[int]:
        return self._reduce(flags, dist.ReduceOp.MAX)

    def add_up(self, numbers: Sequence[int]) -> list[int]:
        return self._reduce(numbers, dist.ReduceOp.SUM)

    def _reduce(self, numbers: Sequence[int], operation: Any) -> list[int]:
        if self.world_size == 1:
            return list(numbers)
        mine = self._numbers[: len(numbers)]
        self._number_values[: len(numbers)] = numbers
        dist.all_reduce(mine, op=operation, group=self._group)
        return cast("list[int]", mine.tolist())


class ProcessGroupRuntime(CollectiveRuntime):
    """One rank of a process group that a launcher started."""

    attempt = 0

    def __init__(self, on_event: Callable[[object], None], args: TrainingArguments) -> None:
        """Join the group.

        Args:
            on_event: Renders events; called on rank 0 only.
            args: Say over what the ranks are joined, and how long a collective may take.
        """
        self.run_id = ""
        self.rank = int(os.environ["RANK"])
        self.local_rank = int(os.environ["LOCAL_RANK"])
        self.world_size = int(os.environ["WORLD_SIZE"])
        self.local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        self._on_event = on_event
        self._command = Command.NONE
        join_group(args)
        self.open_group(args.ddp_timeout)

    def command(self) -> Command:
        return self._command

    def emit(self, event: object) -> None:
        if self.rank == 0:
            self._on_event(event)

    def consult(self, step: int, event: object) -> None:
        self.emit(event)

    @contextlib.contextmanager
    def listening(self, *, sigterm_only_asks: bool = False) -> Generator[Heard]:
        with interrupts(self._on_interrupt, sigterm_only_asks=sigterm_only_asks) as heard:
            yield heard
        self._command = Command.NONE

    def _on_interrupt(self) -> None:
        self._command = Command.STOP_AFTER_SAVE

    def leave(self) -> None:
        """All ranks: wait for each other, since a rank whose process ends early makes the others fail.

        The group lasts as long as the process, because the trainer may be called again.
        """
        if dist.is_initialized():
            self.barrier()
