"""Where an evaluation accumulates predictions and labels, without ever holding two copies of them.

Each leaf of the nested outputs is a column. Its batches stay on the device until ``eval_accumulation_steps`` batches
have passed, then they move to the CPU. A column of more than 16 MB goes to a temporary file, which is memory-mapped
when all batches have been added.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raytrainer.evaluation.nested import Objects, map_leaves
from raytrainer.evaluation.spill import PADDING, SpillFile
from raytrainer.runtimes.base import Runtime
from raytrainer.user_types import Batch

SPILL_BYTES = 16 * 2**20
"""A larger column is written to a file [bytes]."""


class Column:
    """One leaf of all batches: arrays ``[rows, ...]``, or objects."""

    def __init__(
        self, runtime: Runtime, *, concatenates: bool, is_shared: bool, padding: int = PADDING
    ) -> None:
        """Start an empty column.

        Args:
            runtime: The runtime of this rank.
            concatenates: ``eval_do_concat_batches``: batches are concatenated, and padded where they are ragged.
            is_shared: All ranks add the same rows, so one rank of each node writes for all of them.
            padding: Value that pads ragged batches.
        """
        self._runtime = runtime
        self._padding = padding
        self._concatenates = concatenates
        self._is_shared = is_shared and runtime.local_world_size > 1
        self._batches: list[Any] = []
        self._sizes: list[int] = []
        self._num_bytes = 0
        self._spill: SpillFile | None = None
        self._objects: list[list[Any]] | None = None

    def add(self, leaf: Any) -> None:
        """Add a batch: a tensor ``[rows, ...]`` or ``[]``, ``Objects``, or None."""
        if isinstance(leaf, Objects):
            self._objects = self._objects or []
            self._objects.append(leaf.items)
        elif leaf is not None:
            batch = leaf if leaf.dim() > 0 else leaf.reshape(1)
            self._batches.append(batch)
            self._num_bytes += batch.numel() * (4 if batch.dtype == torch.bfloat16 else batch.element_size())
            if self._num_bytes > SPILL_BYTES:
                self._move_to_file()
            elif batch.device.type == "cpu":
                self.to_cpu()

    def to_cpu(self) -> None:
        """Move the batches that are still on the device to the CPU."""
        pending, self._batches = self._batches[len(self._sizes) :], self._batches[: len(self._sizes)]
        for batch in pending:
            self._batches.append(to_numpy(batch))
            self._sizes.append(1)
            # Arrays of equal size are merged, as a binary counter carries, so that few are alive at a time. Many
            # small ones would fragment the heap between the large outputs of the model, which then could not be
            # reused.
            while self._concatenates and len(self._sizes) > 1 and self._sizes[-1] == self._sizes[-2]:
                self._batches[-2:] = [concatenate(self._batches[-2:], self._padding)]
                self._sizes[-2:] = [2 * self._sizes[-1]]

    def _move_to_file(self) -> None:
        while self._batches:
            batch = self._batches.pop(0)
            if self._spill is None:
                dtype = to_numpy(batch[:0]).dtype
                is_writer = not self._is_shared or self._runtime.local_rank == 0
                self._spill = SpillFile(dtype, is_writer=is_writer, is_shared=self._is_shared)
            self._spill.append(to_numpy(batch) if self._spill.is_writer else batch)
        self._sizes = []
        self._num_bytes = SPILL_BYTES + 1  # from now on, each batch is written at once

    def result(self) -> Any:
        """All ranks: the batches, concatenated on the first dimension, or as a list."""
        if self._objects is not None:
            if self._concatenates:
                return [item for batch in self._objects for item in batch]
            return self._objects
        if self._spill is None:
            self.to_cpu()
            return concatenate(self._batches, self._padding) if self._concatenates else self._batches
        if self._concatenates:
            self._spill.pad(self._padding)
        path = self._shared_path(self._spill)
        arrays = self._spill.whole(path) if self._concatenates else self._spill.batches(path)
        if self._is_shared:
            self._runtime.barrier()  # all ranks: the file is unlinked after every rank has mapped it
        self._spill.close()
        return arrays

    def _shared_path(self, spill: SpillFile) -> Path | None:
        """All ranks: the file that the writer on this node wrote."""
        if not self._is_shared:
            return None
        paths = self._runtime.broadcast(self._runtime.gather(spill.path))
        assert paths is not None
        return paths[self._runtime.rank - self._runtime.local_rank]  # a node's ranks are consecutive

    def close(self) -> None:
        """Remove the temporary file."""
        if self._spill is not None:
            self._spill.close()


class Results:
    """Accumulates nested batches, one column per leaf; the first batch sets the structure."""

    def __init__(
        self, runtime: Runtime, *, concatenates: bool, is_shared: bool, padding: int = PADDING
    ) -> None:
        """Start without a column; the first batch says which there are.

        Args:
            runtime: The runtime of this rank.
            concatenates: Concatenate batches on the first dimension; otherwise keep a list of batches.
            is_shared: All ranks add the same rows.
            padding: Value that pads ragged batches.
        """
        self._padding = padding
        self._runtime = runtime
        self._concatenates = concatenates
        self._is_shared = is_shared
        self._structure: Any = None
        """The nested structure of the first batch, with the index of a column at each leaf."""
        self._columns: list[Column] = []

    def add(self, batch: Batch) -> None:
        """Add a nested batch of gathered rows.

        Raises:
            ValueError: If its structure differs from that of earlier batches.
        """

        def add_leaf(index: int, leaf: object) -> None:
            self._columns[index].add(leaf)

        if self._structure is None:
            self._structure = map_leaves(self._open_column, batch)
        map_leaves(add_leaf, self._structure, batch)

    def _open_column(self, _leaf: object) -> int:
        column = Column(
            self._runtime, concatenates=self._concatenates, is_shared=self._is_shared, padding=self._padding
        )
        self._columns.append(column)
        return len(self._columns) - 1

    def to_cpu(self) -> None:
        """Move the batches that are still on the device to the CPU."""
        for column in self._columns:
            column.to_cpu()

    def result(self) -> Any:
        """All ranks: everything as nested numpy arrays; None if there was no batch.

        Without concatenation: a list with one nested structure per batch.
        """
        if self._structure is None:
            return None
        columns = [column.result() for column in self._columns]

        def column_at(index: int) -> Any:
            return columns[index]

        def batch_at(index: int, number: int) -> Any:
            return columns[index][number] if columns[index] else None

        if self._concatenates:
            return map_leaves(column_at, self._structure)
        num_batches = max(len(batches) for batches in columns)
        return [
            map_leaves(functools.partial(batch_at, number=number), self._structure)
            for number in range(num_batches)
        ]

    def close(self) -> None:
        """Remove temporary files; arrays that were returned stay valid."""
        for column in self._columns:
            column.close()


def to_numpy(batch: Batch) -> np.ndarray[Any, Any]:
    """Copy a tensor to the CPU as a numpy array; bfloat16, which numpy lacks, becomes float32."""
    if isinstance(batch, torch.Tensor):
        batch = batch.float() if batch.dtype == torch.bfloat16 else batch
        return batch.cpu().numpy()
    array: np.ndarray[Any, Any] = batch
    return array


def concatenate(batches: list[np.ndarray[Any, Any]], padding: int = PADDING) -> np.ndarray[Any, Any] | None:
    """Concatenate arrays ``[rows, ...]`` on the first dimension, and pad those that are smaller in other dimensions."""
    if not batches:
        return None
    if len({batch.shape[1:] for batch in batches}) == 1:
        return batches[0] if len(batches) == 1 else np.concatenate(batches)
    widest = tuple(max(sizes) for sizes in zip(*(batch.shape[1:] for batch in batches), strict=True))
    dtype = np.result_type(*batches)
    rows = sum(len(batch) for batch in batches)
    joined = np.full((rows, *widest), np.array(padding).astype(dtype), dtype=dtype)
    start = 0
    for batch in batches:
        joined[(slice(start, start + len(batch)), *(slice(size) for size in batch.shape[1:]))] = batch
        start += len(batch)
    return joined
