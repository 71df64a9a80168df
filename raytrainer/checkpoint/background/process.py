"""The process that writes the checkpoints of one rank while the rank trains.

    python -m raytrainer.checkpoint.background.process DESCRIPTOR PARENT

It does what it is told over a socket, one order at a time: write files from shared memory, hash them, bring them to the
disk; commit. It runs at a low priority, so that training has the cores first, but not at the lowest, at which other
programs of a busy machine could keep it from writing for minutes. It imports no transformers and never sees a GPU.

It must not outlive its rank: an attempt that follows would find checkpoints appear. The kernel ends it with the rank's
process, and it looks itself before it commits. Signals that ask the rank to end, and that a supervisor may send to all
processes, do not end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import io
import logging
import os
import pickle
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator
from typing import Any

import torch

from raytrainer.checkpoint.background.arena import map_segment
from raytrainer.checkpoint.background.messages import (
    Place,
    PublishOrder,
    Reply,
    Said,
    Segments,
    StateFile,
    TensorFile,
    WriteOrder,
    receive,
    send,
)
from raytrainer.checkpoint.commit import publish, record_files
from raytrainer.checkpoint.tensor_files import write_tensors
from raytrainer.checkpoint.torch_files import write_state
from raytrainer.errors import CheckpointError

_PRIORITY = 10
"""Added to the niceness of the rank."""
_DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG"""
_LOOK_S = 0.2
"""How often it looks whether its rank lives, where the kernel does not tell it [s]."""


def main() -> None:
    """Serve a rank until it closes its end, or dies."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    os.nice(_PRIORITY)
    with socket.socket(fileno=descriptor) as connection:
        writer = Writer(parent)
        writer.name_devices()
        _serve(connection, writer)


def _serve(connection: socket.socket, writer: Writer) -> None:
    while True:
        try:
            message, descriptors = receive(connection)
        except EOFError:
            return
        if isinstance(message, Segments):
            writer.add(message, descriptors)
            continue
        with _heard() as said:
            reply = _done(writer, message)
        send(connection, _sendable(dataclasses.replace(reply, said=said)))


def _done(writer: Writer, order: WriteOrder | PublishOrder) -> Reply:
    try:
        if isinstance(order, PublishOrder):
            return Reply(committed_bytes=writer.publish(order))
        records = writer.write(order)
        if order.publish is None:
            return Reply(records=records)
        manifest = dataclasses.replace(order.publish.manifest, files=records)
        return Reply(committed_bytes=writer.publish(dataclasses.replace(order.publish, manifest=manifest)))
    except Exception as error:  # noqa: BLE001 - the rank raises it
        return Reply(error=error)


class Writer:
    """Writes what is in the shared memory.

    Args:
        parent: The process of the rank.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._segments: list[Any] = []
        self._storages: dict[int, Any] = {}
        """Of the file that is being written, by number: what several tensors share is written once."""
        self._locations: dict[int, str] = {}
        """By address of a storage in the shared memory: the device on which the rank has it; a file says so."""

    def add(self, message: Segments, descriptors: list[int]) -> None:
        """Map new memory."""
        for descriptor, size in zip(descriptors, message.sizes, strict=True):
            self._segments.append(map_segment(descriptor, size))
            os.close(descriptor)

    def write(self, order: WriteOrder) -> dict[str, Any]:
        """Write files and bring them to the disk; return their records."""
        for file in order.files:
            if isinstance(file, TensorFile):
                self._write_tensors(file)
            else:
                self._write_state(file, order.allowed)
        return record_files(order.target, order.names)

    def publish(self, order: PublishOrder) -> int:
        """Commit a directory; return the size of the checkpoint [bytes]."""
        if os.getppid() != self._parent:
            os._exit(1)
        publish(order.target, order.final, step=order.manifest.step, manifest=order.manifest)
        return sum(path.stat().st_size for path in order.final.rglob("*") if path.is_file())

    def _write_tensors(self, file: TensorFile) -> None:
        tensors = {
            name: self._bytes(place).view(dtype).reshape(shape) for name, dtype, shape, place in file.tensors
        }
        write_tensors(file.path, tensors, metadata=file.metadata)

    def _write_state(self, file: StateFile, allowed: list[Any]) -> None:
        self._locations.clear()
        self._storages.clear()
        write_state(file.path, _read(file, self._find), owner=file.owner, allowed=allowed)

    def _find(self, reference: tuple[Any, int, Place, str]) -> Any:
        dtype, number, place, location = reference
        if number not in self._storages:
            self._storages[number] = self._storage_at(place)
        untyped = self._storages[number]
        self._locations[untyped.data_ptr()] = location
        if dtype is None:
            return untyped
        return torch.storage.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)

    def _storage_at(self, place: Place) -> Any:
        if place.size == 0:  # it must not have the address of the next one
            return torch.UntypedStorage(0)
        return self._bytes(place).untyped_storage()[place.begin : place.begin + place.size]

    def name_devices(self) -> None:
        """Make ``torch.save`` write the devices of the rank."""

        def tag(storage: Any) -> str | None:
            return self._locations.get(storage.data_ptr())

        torch.serialization.register_package(0, tag, lambda storage, location: None)

    def _bytes(self, place: Place) -> Any:
        return self._segments[place.segment][place.begin : place.begin + place.size]


def _read(file: StateFile, find: Any) -> object:
    """Read a state, whose storages are found in the shared memory."""
    unpickler: Any = pickle.Unpickler(io.BytesIO(file.content))  # noqa: S301 - of our own parent
    unpickler.persistent_load = find
    try:
        return unpickler.load()
    except (AttributeError, ImportError) as error:
        raise CheckpointError(
            f"The state of {file.owner} holds an object whose class only the training script knows: {error}. "
            "async_save=True writes it in another process. Put the class into a module, or set async_save=False."
        ) from error


@contextlib.contextmanager
def _heard() -> Generator[list[Said]]:
    """What is logged meanwhile, for the rank to log it."""
    said: list[Said] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.append(Said(logger=record.name, level=record.levelno, text=record.getMessage()))

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)


def _sendable(reply: Reply) -> Reply:
    """Some exceptions cannot be pickled, or not be read again."""
    try:
        pickle.loads(pickle.dumps(reply))  # noqa: S301 - its own
    except Exception:  # noqa: BLE001 - whatever it is
        return dataclasses.replace(
            reply, error=CheckpointError(f"{type(reply.error).__name__}: {reply.error}")
        )
    return reply


def _die_with(parent: int) -> None:
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_DIES_WITH_PARENT, signal.SIGKILL)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOK_S)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


if __name__ == "__main__":
    main()
