"""What an evaluation keeps of all batches, without ever holding two copies of it.

Each leaf of the nest is a column. Its batches stay where they are (on the device) until ``eval_accumulation_steps``
say otherwise or 16 MB have come together; then they move to the host's memory. A column of more than 16 MB goes to a
temporary file, which is mapped into memory when all batches are there.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from raytrainer.evaluation.nest import Objects, map_leaves
from raytrainer.evaluation.spill import PADDING, SpillFile
from raytrainer.runtimes.base import Runtime

SPILL_BYTES = 16 * 2**20
"""Size of a column beyond which it lies in a file [bytes]."""


class Column:
    """One leaf over all batches: arrays ``[rows, ...]``, or objects."""

    def __init__(self, runtime: Runtime, *, joins: bool, is_shared: bool, padding: int = PADDING) -> None:
        """Begin empty.

        Args:
            runtime: Where this rank runs.
            joins: ``eval_do_concat_batches``. Ragged batches are padded then.
            is_shared: All ranks add the same rows, so that one of a node writes for all.
            padding: What ragged batches are padded with.
        """
        self._runtime = runtime
        self._padding = padding
        self._joins = joins
        self._is_shared = is_shared and runtime.local_world_size > 1
        self._batches: list[Any] = []
        self._sizes: list[int] = []
        self._num_bytes = 0
        self._spill: SpillFile | None = None
        self._objects: list[list[Any]] | None = None

    def add(self, leaf: Any) -> None:
        """Take a batch."""
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
                self.to_host()

    def to_host(self) -> None:
        """Free the device's memory."""
        pending, self._batches = self._batches[len(self._sizes) :], self._batches[: len(self._sizes)]
        for batch in pending:
            self._batches.append(to_numpy(batch))
            self._sizes.append(1)
            # Few arrays live at a time, joined like the digits of a binary counter. Many small ones would lie
            # scattered in what the large outputs of the model leave free, which so could not be used again.
            while self._joins and len(self._sizes) > 1 and self._sizes[-1] == self._sizes[-2]:
                self._batches[-2:] = [join(self._batches[-2:], self._padding)]
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
        self._num_bytes = SPILL_BYTES + 1  # From now on each batch goes to the file at once.

    def result(self) -> Any:
        """All ranks: the batches, joined on the first dimension, or as a list."""
        joins = self._joins
        if self._objects is not None:
            return [item for batch in self._objects for item in batch] if joins else self._objects
        if self._spill is None:
            self.to_host()
            return join(self._batches, self._padding) if joins else self._batches
        if joins:
            self._spill.pad(self._padding)
        path = self._shared_path(self._spill)
        found = self._spill.whole(path) if joins else self._spill.batches(path)
        if self._is_shared:
            self._runtime.barrier()  # All ranks: the name of the file goes when everybody has mapped it.
        self._spill.close()
        return found

    def _shared_path(self, spill: SpillFile) -> Path | None:
        """All ranks: the file that the writer of this node wrote."""
        if not self._is_shared:
            return None
        paths = self._runtime.broadcast(self._runtime.gather(spill.path))
        assert paths is not None
        return paths[self._runtime.rank - self._runtime.local_rank]  # Ranks of a node follow each other.

    def close(self) -> None:
        """Remove what was written."""
        if self._spill is not None:
            self._spill.close()


class Results:
    """A nest of columns, made in the form of the first batch."""

    def __init__(self, runtime: Runtime, *, joins: bool, is_shared: bool, padding: int = PADDING) -> None:
        """Begin empty.

        Args:
            runtime: Where this rank runs.
            joins: Join batches on the first dimension; otherwise keep a list of batches.
            is_shared: All ranks add the same rows.
            padding: What ragged batches are padded with.
        """
        self._padding = padding
        self._runtime = runtime
        self._joins = joins
        self._is_shared = is_shared
        self._form: Any = None
        self._columns: list[Column] = []

    def add(self, nest: Any) -> None:
        """Take a batch of gathered rows.

        Raises:
            ValueError: If its nest has another form than that of the batches before.
        """
        if self._form is None:
            self._form = map_leaves(self._open, nest)
        map_leaves(lambda index, leaf: self._columns[index].add(leaf), self._form, nest)

    def _open(self, leaf: Any) -> int:
        options: Any = {"joins": self._joins, "is_shared": self._is_shared, "padding": self._padding}
        self._columns.append(Column(self._runtime, **options))
        return len(self._columns) - 1

    def to_host(self) -> None:
        """Free the device's memory."""
        for column in self._columns:
            column.to_host()

    def result(self) -> Any:
        """All ranks: everything as numpy arrays; None if no batch came.

        Without joining: a list with a nest for each batch.
        """
        if self._form is None:
            return None
        found = [column.result() for column in self._columns]
        if self._joins:
            return map_leaves(lambda index: found[index], self._form)
        count = max(len(batches) for batches in found)

        def leaf(index: int, at: int) -> Any:
            return found[index][at] if found[index] else None

        return [map_leaves(functools.partial(leaf, at=at), self._form) for at in range(count)]

    def close(self) -> None:
        """Remove temporary files. Arrays that were handed out stay as they are."""
        for column in self._columns:
            column.close()


def to_numpy(batch: Any) -> np.ndarray[Any, Any]:
    """A tensor in the host's memory; numpy has no bfloat16, so that becomes float32."""
    if isinstance(batch, np.ndarray):
        return batch
    batch = batch.float() if batch.dtype == torch.bfloat16 else batch
    return batch.cpu().numpy()


def join(batches: list[np.ndarray[Any, Any]], padding: int = PADDING) -> np.ndarray[Any, Any] | None:
    """Join arrays ``[rows, ...]`` on the first dimension, those that are smaller in another one padded."""
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
