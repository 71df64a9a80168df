"""What a rank and the process that writes its checkpoints send each other.

A message is its length, then a pickle; descriptors of shared memory travel beside it. Imports neither torch nor
transformers, because the process that writes should start fast.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from raytrainer.checkpoint.manifest import FileRecord
from raytrainer.telemetry.events import Phase

_LENGTH = struct.Struct("!QI")
"""Bytes of the pickle, and how many descriptors come with it."""
MOST_DESCRIPTORS = 200
"""That one message may carry; the kernel allows 253."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where bytes are in the shared memory."""

    segment: int
    """Counted in the order in which segments were sent."""
    begin: int
    """[bytes]"""
    size: int
    """[bytes]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Summed:
    """Bytes in the shared memory whose checksum the file holds."""

    number: int
    """Refers to them; not negative."""
    place: Place


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckSum:
    """The CRC-32 of what came before, in four bytes."""

    number: int


@dataclass(frozen=True, kw_only=True)
class Identity:
    """The digits by which torch tells the content of a file."""

    NUMBER: ClassVar[int] = -1
    """Of its own checksum."""
    SIZE: ClassVar[int] = 40
    """[bytes]"""

    prefix: bytes
    """Of the names."""
    sums: tuple[int | CheckSum, ...]
    """Of all entries, in the order of the file."""


Part = bytes | Place | Summed | CheckSum | Identity
"""What a file consists of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Image:
    """A file that is to be written."""

    path: Path
    parts: list[Part]


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """New shared memory; its descriptors come with the message."""

    sizes: list[int]
    """[bytes]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Variables:
    """What has changed in the rank's environment, where credentials of a store may be renewed."""

    changed: dict[str, str | None]
    """None for one that was removed."""


class FollowUp(Protocol):
    """What the process does with a save when its files are written; what needs other ranks is sent when they are ready.

    It is sent as it is, so its module is imported there, which must import neither torch nor transformers.
    """

    @property
    def phase(self) -> str:
        """What it is called where phases of a save are listed."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether it talks to a store, which gives up connections that stand still: idle time is not enough for it."""
        ...

    def follow(self, written: Mapping[str, FileRecord]) -> int | None:
        """Do it.

        Args:
            written: What this process has written and recorded of the save.

        Returns:
            The size of the checkpoint, if it is committed now [bytes].
        """
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteOrder:
    """Write the files of a rank, hash them, and bring them to the disk."""

    target: Path
    files: list[Image]
    names: list[str]
    """What this rank records; files of hooks are among them, and those that it is to write."""
    then: Sequence[FollowUp] = ()
    """To be followed at once, one after the other: all of them, if there is one rank."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FollowOrder:
    """Go on with the save whose files were written last."""

    what: FollowUp


@dataclass(frozen=True, kw_only=True, slots=True)
class TouchOrder:
    """Touch shared memory for the first time, which takes longer than a copy to it, so that the rank need not."""

    segment: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Hurry:
    """Training waits for the order that is under way."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A line that was logged while an order is followed; comes before its reply."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """How an order ended. One of the first three fields is set, unless memory was touched."""

    records: dict[str, FileRecord] | None = None
    committed_bytes: int | None = None
    """Size of the checkpoint that was committed."""
    error: Exception | None = None
    phases: list[Phase] = field(default_factory=list[Phase])
    """What it took."""


def send(connection: socket.socket, message: object, descriptors: Sequence[int] = ()) -> None:
    """Send a message, and open files beside it."""
    content = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
    head = _LENGTH.pack(len(content), len(descriptors))
    if descriptors:
        socket.send_fds(connection, [head], list(descriptors))
    else:
        connection.sendall(head)
    connection.sendall(content)


def receive(connection: socket.socket) -> tuple[Any, list[int]]:
    """Wait for a message; the descriptors that came with it belong to the caller.

    Raises:
        EOFError: If the other side has ended.
    """
    head, descriptors, _, _ = socket.recv_fds(connection, _LENGTH.size, MOST_DESCRIPTORS)
    if not head:
        raise EOFError
    head += _exactly(connection, _LENGTH.size - len(head))
    size, expected = _LENGTH.unpack(head)
    assert len(descriptors) == expected, "the kernel cut the list of descriptors"
    return pickle.loads(_exactly(connection, size)), descriptors  # noqa: S301 - of our own child or parent


def _exactly(connection: socket.socket, size: int) -> bytes:
    content = bytearray()
    while len(content) < size:
        part = connection.recv(min(size - len(content), 1 << 20))
        if not part:
            raise EOFError
        content += part
    return bytes(content)
