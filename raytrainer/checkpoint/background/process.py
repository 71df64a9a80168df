"""The process that writes the checkpoints of one rank while the rank trains.

    python -m raytrainer.checkpoint.background.process DESCRIPTOR PARENT

It does what it is told over a socket, one order at a time: touch memory before the first save; write files from shared
memory, hash them, bring them to the disk; upload; commit. It does so in small steps in a thread that gets a core only
when nothing else wants it. When training waits for the save, the rest is done at the rank's own priority, because on a
busy machine the idle thread could wait for minutes; and so is what talks to a store, which would end a connection that
waits so long, and takes little of a core. It imports neither torch nor transformers, and never sees a GPU.

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
    FollowOrder,
    FollowUp,
    Hurry,
    Reply,
    Said,
    Segments,
    TouchOrder,
    Variables,
    WriteOrder,
    receive,
    send,
)
from raytrainer.checkpoint.background.written import write_image
from raytrainer.checkpoint.commit import record_files
from raytrainer.checkpoint.manifest import FileRecord
from raytrainer.checkpoint.save_phases import Laps
from raytrainer.errors import CheckpointError

Steps = Generator[bool | None, None, Reply]
"""Small steps of an order; True says that those that follow are not for idle time."""

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
        elif isinstance(message, Variables):
            _set(message)
        elif not isinstance(message, Hurry):  # one may come when the order has just ended
            with _heard(connection):
                reply = _ended(writer.steps(message), connection)
            send(connection, _sendable(reply))


def _set(message: Variables) -> None:
    for name, value in message.changed.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _ended(steps: Steps, connection: socket.socket) -> Reply:
    """Follow an order to its end, in idle time until the rank hurries, or a step is not for idle time."""
    ended: list[Reply] = []
    has_stopped, stopped = os.pipe()
    hurry = threading.Event()

    def work() -> None:
        _yield_to_others()
        try:
            while not ended and not hurry.is_set():
                if _step(steps, ended):
                    break
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


def _step(steps: Steps, ended: list[Reply]) -> bool:
    """Go one step, after which the order may have ended; return whether the next ones are not for idle time."""
    try:
        return bool(next(steps))
    except StopIteration as stop:
        ended.append(stop.value)
    except Exception as error:  # noqa: BLE001 - the rank raises it
        ended.append(Reply(error=error))
    return False


class Writer:
    """Writes what is in the shared memory.

    Args:
        parent: The process of the rank.
    """

    def __init__(self, parent: int) -> None:
        self._parent = parent
        self._segments: list[mmap.mmap] = []
        self._written: dict[str, FileRecord] = {}
        """In the save that is under way."""

    def add(self, message: Segments, descriptors: list[int]) -> None:
        """Map new memory."""
        for descriptor, size in zip(descriptors, message.sizes, strict=True):
            self._segments.append(mmap.mmap(descriptor, size, prot=mmap.PROT_READ))
            os.close(descriptor)

    def steps(self, order: WriteOrder | FollowOrder | TouchOrder) -> Steps:
        """Follow an order in small steps; where one yields True, the next are not for idle time."""
        if isinstance(order, TouchOrder):
            yield from _touched(self._segments[order.segment])
            return Reply()
        laps = Laps()
        if isinstance(order, WriteOrder):
            self._written = yield from self.write(order)
            laps.end("writing")
        size: int | None = None
        for one in order.then if isinstance(order, WriteOrder) else [order.what]:
            yield one.is_remote
            size = self.follow(one)
            laps.end(one.phase)
        records = self._written if isinstance(order, WriteOrder) else {}
        return Reply(records=records, committed_bytes=size, phases=laps.phases)

    def write(self, order: WriteOrder) -> Generator[None, None, dict[str, FileRecord]]:
        """Write files and bring them to the disk; return the records of all that are to be recorded."""
        records: dict[str, FileRecord] = {}
        for image in order.files:
            name = image.path.relative_to(order.target).as_posix()
            records[name] = yield from write_image(image, self._segments)
        of_hooks = [name for name in order.names if name not in records]
        found = record_files(order.target, of_hooks) | records
        return {name: found[name] for name in order.names}

    def follow(self, one: FollowUp) -> int | None:
        """Go on with a save; return the size of the checkpoint if it is committed [bytes]."""
        if os.getppid() != self._parent:
            os._exit(1)
        return one.follow(self._written)


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
def _heard(connection: socket.socket) -> Generator[None]:
    """Send what is logged meanwhile to the rank, which logs it: a store may fail for minutes before the order ends."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:  # one at a time, also from threads
            with contextlib.suppress(OSError):  # the rank is gone
                send(connection, Said(logger=record.name, level=record.levelno, text=record.getMessage()))

    handler = Handler(logging.WARNING)
    logging.getLogger().addHandler(handler)
    try:
        yield
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
