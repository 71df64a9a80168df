"""By which hash a file of a checkpoint is compared with its manifest.

XXH3 with 128 bits is computed faster than memory is read, and finds what happens to files: bits that flip, parts that
are cut off, missing, or of another file. It does not prove who wrote them. Nor did SHA-256, by which earlier versions
compared: whoever can change a file can change the manifest beside it. Their checkpoints are compared by SHA-256.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from io import BufferedReader
from typing import Any, Protocol

import xxhash


class Digest(Protocol):
    """A hash that is being computed."""

    def update(self, data: bytes | bytearray | memoryview, /) -> None:
        """Go on with more bytes."""
        ...

    def hexdigest(self) -> str:
        """Of all bytes so far, in hexadecimal digits."""
        ...


CURRENT = "xxh3_128"
"""Of new records."""
ALGORITHMS: dict[str, Callable[[], Digest]] = {"sha256": hashlib.sha256, CURRENT: xxhash.xxh3_128}
"""Those that can be compared, by the name that a manifest gives them."""
LENGTHS = {"sha256": 64, CURRENT: 32}
"""[hexadecimal digits]"""
TITLES = {"sha256": "SHA-256", CURRENT: "XXH3 of 128 bits"}
"""What people call them."""


def new_digest() -> Digest:
    """The hash of a file that is being written."""
    return ALGORITHMS[CURRENT]()


def digest_of_file(file: BufferedReader, algorithm: str = CURRENT) -> str:
    """Hash a file from where it is to its end.

    Args:
        file: Open for reading.
        algorithm: One of ``ALGORITHMS``.

    Returns:
        Hexadecimal digits.
    """
    chosen: Any = ALGORITHMS[algorithm]
    return hashlib.file_digest(file, chosen).hexdigest()
