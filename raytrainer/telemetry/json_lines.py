"""How a file of JSON lines is appended to, so that a kill leaves no torn line, and how it is read.

A line is written by one call of the system to a file that is open for appending: the kernel completes it when the
process is killed in it, and lines of several processes do not mix. Nothing is kept back: a line is in the file when
``append`` returns. Only a machine that loses power, or a full disk, can leave a part of a line, which the next process
that opens the file cuts off, and readers skip.
"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

_BLOCK = 64 * 1024
_ENCODE = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode
_AS_THEY_ARE = frozenset({str, bool, int, type(None)})


class JsonLines:
    """A file that lines are appended to; it and its folder are made by the first one.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    def append(self, values: Mapping[str, object]) -> None:
        """Append an object as one line.

        Raises:
            OSError: If it cannot be written.
        """
        if self._descriptor is None:
            self._descriptor = _open(self.path)
        try:  # Most values are plain: those are not gone through twice.
            text = _ENCODE(values)
        except (TypeError, ValueError):
            text = _ENCODE(plain(values))
        line = (text + "\n").encode()
        written = os.write(self._descriptor, line)
        if written < len(line):  # A disk that is full: the rest, or the error that says so.
            os.write(self._descriptor, line[written:])

    def close(self) -> None:
        """Close the file; ``append`` opens it again."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def read_lines(path: Path, *, tail_bytes: int | None = None) -> Iterator[dict[str, Any]]:
    """The objects of a file, without lines that are torn; none if there is no file.

    Args:
        path: The file.
        tail_bytes: Read only about so much of its end.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        if tail_bytes is not None and os.fstat(file.fileno()).st_size > tail_bytes:
            file.seek(-tail_bytes, os.SEEK_END)
            file.readline()
        for line in file:
            found = _object(line)
            if found is not None:
                yield found


class LinesSince:
    """The objects that a file holds from an offset on, by iteration; a line that is not complete yet is left.

    Args:
        path: The file, which need not exist.
        begin: The offset [bytes].
    """

    def __init__(self, path: Path, begin: int) -> None:
        self._path = path
        self.end = begin
        """Where the next call goes on [bytes]."""

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return
        with file:
            file.seek(self.end)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self.end += len(line)
                found = _object(line)
                if found is not None:
                    yield found


def _object(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None for a line that holds none."""
    try:
        found: object = json.loads(line)
    except ValueError:
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None


def plain(value: object) -> object:
    """A value as JSON can hold it: what is no finite number becomes ``"NaN"``, ``"Infinity"`` or ``"-Infinity"``."""
    kind = type(value)
    if kind is float:
        return _number(cast("float", value))
    if kind in _AS_THEY_ARE or isinstance(value, str):
        return value
    if kind is dict or isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in cast("Mapping[object, object]", value).items()}
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        return _number(float(value))
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [plain(one) for one in cast("Sequence[object]", value)]
    return str(value)


def _number(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _open(path: Path) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        _cut_torn_line(descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _cut_torn_line(descriptor: int) -> None:
    """Cut off what follows the last end of a line."""
    size = end = os.fstat(descriptor).st_size
    while end > 0:
        begin = max(0, end - _BLOCK)
        found = os.pread(descriptor, end - begin, begin).rfind(b"\n")
        if found >= 0:
            end = begin + found + 1
            break
        end = begin
    if end < size:
        os.ftruncate(descriptor, end)
