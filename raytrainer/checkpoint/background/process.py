"""The process that writes the checkpoints of one rank while the rank trains.

    python -m raytrainer.checkpoint.background.process DESCRIPTOR PARENT

It does what it is told over a socket, one order at a time: touch memory before the first save; write files from shared
memory, hash them, bring them to the disk; commit. It does so in small steps in a thread that gets a core only when
nothing else wants it. When training waits for the save, the rest is done at the rank's own priority, because on a busy
machine the idle thread could wait for minutes. It imports neither torch nor transformers, and never sees a GPU.

It must not outlive its rank: an attempt that follows would find checkpoints appear. The kernel ends it with the rank's
process, and it looks itself before it commits. Signals that ask the rank to end, and that a supervisor may send to all
processes, do not end it.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import logging
import mmap
import os
import pickle
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Generator

from raytrainer.checkpoint.background.messages import (
    Hurry,
    PublishOrder,
    Reply,
    Said,
    Segments,
    TouchOrder,
    WriteOrder,
    receive,
    send,
)
from raytrainer.checkpoint.background.written import write_image
from raytrainer.checkpoint.commit import publish, record_files
from raytrainer.checkpoint.manifest import FileRecord
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.errors import CheckpointError

_PRIORITY = 19
"""The niceness of the thread that writes, where the system has no idle priority."""
_DIES_WITH_PARENT = 1
"""PR_SET_PDEATHSIG"""
_AT_ONCE = 4 << 20
"""Memory that is touched in a step [bytes]."""
_MAP = 22
"""MADV_POPULATE_READ, which Python has no name for."""
_LOOK_S = 0.2
"""How often it looks whether its rank lives, where the kernel does not tell it [s]."""


def main() -> None:
    """Serve a rank until it closes its end, or dies."""
    descriptor, parent = int(sys.argv[1]), int(sys.argv[2])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    _die_with(parent)
    with socket.socket(fileno=descriptor) as connection, contextlib.suppress(EOFError, ConnectionError):
        _serve(connection, Writer(parent))


def _serve(connection: socket.socket, writer: Writer) -> None:
    while True:
        message, descriptors = receive(connection)
        if isinstance(message, Segments):
            writer.add(message, descriptors)
        elif not isinstance(message, Hurry):  # one may come when the order has just ended
            with _heard() as said:
                reply = _ended(writer.steps(message), connection)
            send(connection, _sendable(dataclasses.replace(reply, said=said)))


def _ended(steps: Generator[None, None, Reply], connection: socket.socket) -> Reply:
    """Follow an order to its end, in idle time until the rank hurries."""
    ended: list[Reply] = []
    has_stopped, stopped = os.pipe()
    hurry = threading.Event()

    def work() -> None:
        _yield_to_others()
        try:
            while not ended and not hurry.is_set():
                _step(steps, ended)
        finally:
            os.close(stopped)

    thread = threading.Thread(target=work, name="idle")
    thread.start()
    readable, _, _ = select.select([connection, has_stopped], [], [])
    if has_stopped not in readable:
        try:
            receive(connection)  # it hurries, or is gone
        finally:
            hurry.set()
    thread.join()
    os.close(has_stopped)
    while not ended:
        _step(steps, ended)
    return ended[0]


def _step(steps: Generator[None, None, Reply], ended: list[Reply]) -> None:
    try:
        next(steps)
    except StopIteration as stop:
        ended.append(stop.value)
    except Exception as error:  # noqa: BLE001 - the rank raises it
        ended.append(Reply(error=error))


class Writer:
    """Writes what is in the shared memory.

    Args:
        parent: The process of the rank.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._segments: list[mmap.mmap] = []

    def add(self, message: Segments, descriptors: list[int]) -> None:
        """Map new memory."""
        for descriptor, size in zip(descriptors, message.sizes, strict=True):
            self._segments.append(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
            os.close(descriptor)

    def steps(self, order: WriteOrder | PublishOrder | TouchOrder) -> Generator[None, None, Reply]:
        """Follow an order in small steps."""
        if isinstance(order, TouchOrder):
            yield from _touched(self._segments[order.segment])
            return Reply()
        laps = Laps()
        if isinstance(order, PublishOrder):
            size = self.publish(order)
            laps.end("commit")
            return Reply(committed_bytes=size, phases=laps.phases)
        records = yield from self.write(order)
        laps.end("writing")
        if order.publish is None:
            return Reply(records=records, phases=laps.phases)
        manifest = dataclasses.replace(order.publish.manifest, files=records)
        size = self.publish(dataclasses.replace(order.publish, manifest=manifest))
        laps.end("commit")
        return Reply(committed_bytes=size, phases=laps.phases)

    def write(self, order: WriteOrder) -> Generator[None, None, dict[str, FileRecord]]:
        """Write files and bring them to the disk; return the records of all that are to be recorded."""
        records: dict[str, FileRecord] = {}
        for image in order.files:
            name = image.path.relative_to(order.target).as_posix()
            records[name] = yield from write_image(image, self._segments)
        of_hooks = [name for name in order.names if name not in records]
        found = record_files(order.target, of_hooks) | records
        return {name: found[name] for name in order.names}

    def publish(self, order: PublishOrder) -> int:
        """Commit a directory; return the size of the checkpoint [bytes]."""
        if os.getppid() != self._parent:
            os._exit(1)
        publish(order.target, order.final, step=order.manifest.step, manifest=order.manifest)
        return sum(path.stat().st_size for path in order.final.rglob("*") if path.is_file())


def _touched(memory: mmap.mmap) -> Generator[None]:
    """Have the kernel allocate all pages of shared memory."""
    for begin in range(0, len(memory), _AT_ONCE):
        size = min(_AT_ONCE, len(memory) - begin)
        try:
            memory.madvise(_MAP, begin, size)
        except OSError:  # before Linux 5.14
            memory[begin : begin + size : mmap.PAGESIZE]
        yield


def _yield_to_others() -> None:
    """This thread: get a core, and the disk, only when nothing else wants them."""
    try:
        os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    except (AttributeError, OSError):
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PRIORITY)


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
