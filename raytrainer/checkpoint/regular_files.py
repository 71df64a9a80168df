"""Reading files of a checkpoint without trusting what they are: a FIFO would be waited for, a device never ends."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path


def open_regular(path: Path) -> io.BufferedReader:
    """Open a file for reading.

    Raises:
        OSError: If there is none, or it is a FIFO, a device or a directory.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return open(descriptor, "rb")
    os.close(descriptor)
    raise OSError(f"{path.name} is not a regular file")


def read_regular(path: Path) -> str:
    """Read a text file.

    Raises:
        OSError: As ``open_regular``.
        ValueError: If it is not UTF-8.
    """
    with open_regular(path) as file:
        return file.read().decode("utf-8")
