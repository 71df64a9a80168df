"""What a rank and the process that writes its checkpoints send each other.

A message is its length, then a pickle; descriptors of shared memory travel beside it. Imports neither torch nor
transformers, because the process that writes should start fast.
"""

from __future__ import annotations

import pickle
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raytrainer.checkpoint.manifest import FileRecord, Manifest

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
class TensorFile:
    """A safetensors file that is to be written."""

    path: Path
    tensors: list[tuple[str, Any, tuple[int, ...], Place]]
    """Name, dtype, shape, and where the values are; in the order of the file's writer."""
    metadata: dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class StateFile:
    """A file of ``torch.save`` that is to be written."""

    path: Path
    content: bytes
    """A pickle in which each storage is a reference to a place."""
    owner: str
    """Whose state it is, for messages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Segments:
    """New shared memory; its descriptors come with the message."""

    sizes: list[int]
    """[bytes]"""


@dataclass(frozen=True, kw_only=True, slots=True)
class PublishOrder:
    """Commit a directory that all ranks have written."""

    target: Path
    final: Path
    manifest: Manifest


@dataclass(frozen=True, kw_only=True, slots=True)
class WriteOrder:
    """Write the files of a rank, hash them, and bring them to the disk."""

    target: Path
    files: list[TensorFile | StateFile]
    names: list[str]
    """What this rank records; files of hooks are among them, and those that it is to write."""
    allowed: list[Any]
    """What may be in a file of ``torch.save`` besides what torch allows."""
    publish: PublishOrder | None = None
    """To be followed at once, if there is one rank; its manifest gets the files that were recorded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A line that was logged."""

    logger: str
    level: int
    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """How an order ended. One of the first three fields is set."""

    records: dict[str, FileRecord] | None = None
    committed_bytes: int | None = None
    """Size of the checkpoint that was committed."""
    error: Exception | None = None
    said: list[Said] = field(default_factory=list[Said])


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
