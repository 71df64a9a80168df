"""The host memory that holds the state of one save, shared with the process that writes it.

It consists of anonymous files in memory (``memfd_create``), so the size of ``/dev/shm`` does not limit it, and nothing
of it is left when both processes have ended. It is kept from one save to the next: memory that is touched for the first
time costs several times the copy. Where the size of a save is known before it is due, the other process touches the
memory, and this one only maps what is there. On a GPU it is pinned, so that copies to it run at the speed of the bus.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
from dataclasses import dataclass
from typing import Any

import torch

from raytrainer.checkpoint.background.messages import Place
from raytrainer.errors import CheckpointError

logger = logging.getLogger(__name__)

SMALLEST_SEGMENT = 32 << 20
"""[bytes] What many small tensors share; a larger tensor may have a segment of its own."""
_ALIGNMENT = 64
"""[bytes]"""
_AT_ONCE = 4 << 20
"""Of which pages are mapped in one call [bytes]."""
_MAP = 22
"""MADV_POPULATE_READ, which Python has no name for: map pages, many at a time; Linux 5.14."""


@dataclass(kw_only=True, slots=True)
class Segment:
    """One piece of shared memory, mapped."""

    descriptor: int
    memory: mmap.mmap
    content: torch.Tensor
    """The same: [bytes], uint8"""
    used: int = 0
    """[bytes]"""


class Arena:
    """Memory for one save at a time.

    Args:
        is_pinned: The state is on a GPU.
    """

    def __init__(self, *, is_pinned: bool) -> None:
        self.segments: list[Segment] = []
        self._is_pinned = is_pinned
        self._current = 0

    @property
    def size(self) -> int:
        """Of all segments [bytes]."""
        return sum(segment.content.numel() for segment in self.segments)

    def reserve(self, size: int) -> int:
        """Get a segment that another process may touch before it is used; nothing is allocated here.

        Returns:
            Its number.
        """
        self.segments.append(_new(size))
        return len(self.segments) - 1

    def map(self, number: int) -> None:
        """Map the pages of a segment that was reserved; from its end, because another process may still touch it."""
        segment = self.segments[number]
        with contextlib.suppress(OSError):  # then each of them is mapped when it is used
            for begin in reversed(range(0, len(segment.memory), _AT_ONCE)):
                segment.memory.madvise(_MAP, begin, min(_AT_ONCE, len(segment.memory) - begin))
        if self._is_pinned:
            _pin(segment)

    def reuse(self) -> None:
        """The save is written; the next one takes its place."""
        self._current = 0
        for segment in self.segments:
            segment.used = 0

    def take(self, source: torch.Tensor) -> Place:
        """Copy bytes; of a GPU they are there when its stream has been waited for.

        Args:
            source: ``[bytes]``, uint8.

        Raises:
            CheckpointError: If there is no memory left.
        """
        size = source.numel()
        number, segment = self._with_room(size)
        begin = segment.used
        segment.content[begin : begin + size].copy_(source, non_blocking=self._is_pinned)
        segment.used += -(-size // _ALIGNMENT) * _ALIGNMENT
        return Place(segment=number, begin=begin, size=size)

    def close(self) -> None:
        """Give the memory back as soon as the other process has ended, too."""
        for segment in self.segments:
            if self._is_pinned:
                _driver().cudaHostUnregister(segment.content.data_ptr())
            os.close(segment.descriptor)
        self.segments.clear()

    def _with_room(self, size: int) -> tuple[int, Segment]:
        # In the order of the last save, so that the same tensors find the same places.
        for number in range(self._current, len(self.segments)):
            segment = self.segments[number]
            if segment.used + size <= segment.content.numel():
                self._current = number
                return number, segment
        self.segments.append(_new(max(size, SMALLEST_SEGMENT)))
        if self._is_pinned:
            _pin(self.segments[-1])
        self._current = len(self.segments) - 1
        return self._current, self.segments[-1]


def bytes_of(storage: Any) -> torch.Tensor:
    """The bytes of an untyped storage, ``[bytes]`` in uint8, without a copy."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _new(size: int) -> Segment:
    descriptor = os.memfd_create("raytrainer-save", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
    except (OSError, ValueError) as error:
        os.close(descriptor)
        raise CheckpointError(
            f"async_save=True copies the state of a save to host memory, and {size:,} bytes of it could not be had: "
            f"{error}. Give the workers more memory, or set async_save=False."
        ) from error
    content = torch.frombuffer(memory, dtype=torch.uint8)
    return Segment(descriptor=descriptor, memory=memory, content=content)


def _pin(segment: Segment) -> None:
    """Pin memory that torch did not allocate; where that fails, copies to it are slower."""
    content = segment.content
    status: int = int(_driver().cudaHostRegister(content.data_ptr(), content.numel(), 0))
    if status != 0:
        logger.warning(
            "%d bytes of host memory for saves could not be pinned (CUDA error %d); copies to it are slower.",
            content.numel(),
            status,
        )


def _driver() -> Any:
    untyped: Any = torch.cuda
    return untyped.cudart()
