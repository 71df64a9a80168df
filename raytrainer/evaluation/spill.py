"""Results that are too large for memory: one growing temporary file per leaf.

Batches are appended as they are. Ragged ones are padded at the end: going from the last batch to the first, each is
read, padded to the greatest width, and written to its final offset. That offset is never smaller than the one it was
read from, so nothing is overwritten before it has been read, and neither memory nor disk holds a second copy.

The ranks of a node have the same rows after gathering. One of them writes the file, and all of them map it.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from raytrainer.errors import RayTrainerError
from raytrainer.user_types import Batch

PADDING = -100


class SpillFile:
    """The batches of one leaf in a temporary file, which is unlinked as soon as no other rank has to open it."""

    def __init__(self, dtype: np.dtype[Any], *, is_writer: bool = True, is_shared: bool = False) -> None:
        """Open an empty file.

        Args:
            dtype: The dtype of all batches.
            is_writer: Whether this rank writes; other ranks only record shapes.
            is_shared: Whether other ranks of this node will map the file.
        """
        self.dtype = dtype
        self.is_writer = is_writer
        self.shapes: list[tuple[int, ...]] = []
        self.path: Path | None = None
        self._file: BinaryIO | None = None
        if not is_writer:
            return
        number, name = tempfile.mkstemp(prefix="raytrainer-evaluation-")
        self._file = os.fdopen(number, "r+b", buffering=0)
        if is_shared:
            self.path = Path(name)
        else:
            Path(name).unlink()  # the kernel frees it when this process ends, however it ends

    def append(self, batch: Batch) -> None:
        """Append a batch ``[rows, ...]``: an array, or anything with a shape on a rank that does not write.

        Raises:
            RayTrainerError: If the file system is full, or the dtype of the batch cannot be cast to that of the file.
        """
        self.shapes.append(tuple(batch.shape))
        if self._file is None:
            return
        if batch.dtype != self.dtype and not np.can_cast(batch.dtype, self.dtype, "same_kind"):
            raise RayTrainerError(
                f"An evaluation batch has dtype {batch.dtype}, and earlier ones {self.dtype}. Return the same dtype "
                "for all batches."
            )
        self._write(batch)

    def batches(self, path: Path | None = None) -> list[np.ndarray[Any, Any]]:
        """Each batch as it was appended, memory-mapped."""
        everything = self._map(path, sum(map(math.prod, self.shapes)))
        ends = np.cumsum([math.prod(shape) for shape in self.shapes])
        return [
            part.reshape(shape)
            for part, shape in zip(np.split(everything, ends[:-1]), self.shapes, strict=True)
        ]

    def pad(self, padding: int = PADDING) -> None:
        """Writer: pad all batches to the greatest width, in place."""
        if self._file is None or not self._is_ragged():
            return
        widest = self.row_shape()
        row = math.prod(widest)
        rows_before = sum(shape[0] for shape in self.shapes)
        read_at = sum(map(math.prod, self.shapes))
        for shape in reversed(self.shapes):
            rows_before -= shape[0]
            read_at -= math.prod(shape)
            padded = np.full((shape[0], *widest), np.array(padding).astype(self.dtype), dtype=self.dtype)
            self._file.seek(read_at * self.dtype.itemsize)
            raw = self._file.read(math.prod(shape) * self.dtype.itemsize)
            padded[tuple(slice(size) for size in shape)] = np.frombuffer(raw, self.dtype).reshape(shape)
            self._write(padded, at=rows_before * row)

    def whole(self, path: Path | None = None) -> np.ndarray[Any, Any]:
        """All rows, memory-mapped; call ``pad`` first.

        Writing to the array does not change the file: the mapping is copy-on-write.
        """
        shape = (sum(shape[0] for shape in self.shapes), *self.row_shape())
        return self._map(path, math.prod(shape)).reshape(shape)

    def row_shape(self) -> tuple[int, ...]:
        """The smallest shape that every row of every batch fits in."""
        return tuple(max(sizes) for sizes in zip(*(shape[1:] for shape in self.shapes), strict=True))

    def close(self) -> None:
        """Remove the file; arrays that map it stay valid."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        if self._file is not None:
            self._file.close()
        self.path = self._file = None

    def _is_ragged(self) -> bool:
        return len({shape[1:] for shape in self.shapes}) > 1

    def _write(self, array: np.ndarray[Any, Any], at: int | None = None) -> None:
        assert self._file is not None
        with self._explain_write_errors():
            self._file.seek(0, os.SEEK_END) if at is None else self._file.seek(at * self.dtype.itemsize)
            remaining = np.ascontiguousarray(array, dtype=self.dtype).reshape(-1).view(np.uint8).data
            while len(remaining) > 0:  # one write takes 2 GB at most
                remaining = remaining[self._file.write(remaining) :]

    def _map(self, path: Path | None, count: int) -> np.ndarray[Any, Any]:
        source: Any = path if path is not None else self._file
        # "c" is copy-on-write: a metric may modify its inputs, and neither the file nor another rank sees that.
        return np.memmap(source, dtype=self.dtype, mode="c", shape=(count,)).view(np.ndarray)

    @contextlib.contextmanager
    def _explain_write_errors(self) -> Generator[None]:
        try:
            yield
        except OSError as error:
            raise RayTrainerError(
                f"The results of an evaluation could not be written to {tempfile.gettempdir()}: {error}. Keep less: "
                "reduce the predictions with preprocess_logits_for_metrics=, or stream them with "
                "batch_eval_metrics=True; or set TMPDIR to a larger file system."
            ) from error
