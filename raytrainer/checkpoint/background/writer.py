"""A rank's end of the process that writes its checkpoints: starting it, giving it an order, hearing how that ended.

There is one for each rank of a run, from its first save to its end, and one order at a time. Nothing here takes part in
a collective, and nothing runs in a thread of the rank.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import subprocess
import sys
from collections.abc import Generator, Sequence

from raytrainer.checkpoint.background.arena import Arena, Segment
from raytrainer.checkpoint.background.messages import (
    MOST_DESCRIPTORS,
    FollowOrder,
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
from raytrainer.checkpoint.background.staging import Stage, staging
from raytrainer.errors import CheckpointError

_SPARE = 64
"""This part of the size of a copy is reserved beyond it, because tensors begin at round places."""
_OWN_VARIABLES = {"CUDA_VISIBLE_DEVICES": ""}
"""That it does not have from this process."""
PROCESS = "raytrainer.checkpoint.background.process"
"""The module that it runs."""


class BackgroundWriter:
    """The process that writes the checkpoints of this rank, and the memory that both share.

    Args:
        is_pinned: The state is on a GPU.
    """

    def __init__(self, *, is_pinned: bool = False) -> None:
        self._arena = Arena(is_pinned=is_pinned)
        self._num_sent = 0
        self._environment: dict[str, str] = {}
        """What the process knows of that of this one."""
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: socket.socket | None = None
        self._reply: Reply | None = None
        self._touched: int | None = None
        """The segment that is touched, and not mapped yet."""

    @property
    def pid(self) -> int | None:
        """Of the process."""
        return None if self._process is None else self._process.pid

    @property
    def segments(self) -> Sequence[Segment]:
        """Of the shared memory."""
        return self._arena.segments

    @property
    def memory(self) -> int:
        """Of the copy [bytes]."""
        return self._arena.size

    def start(self) -> None:
        """Start the process, if there is none; it is ready a tenth of a second later, and orders wait for it."""
        if self._process is not None:
            return
        ours, theirs = socket.socketpair()
        with theirs:
            # What this process imports it can import too, whatever has changed the search path; and nothing else.
            path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
            self._environment = dict(os.environ)
            command = [sys.executable, "-P", "-m", PROCESS, str(theirs.fileno()), str(os.getpid())]
            self._process = subprocess.Popen(
                command,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # Ctrl-C in a terminal is for the rank
                env=self._environment | {"PYTHONPATH": path} | _OWN_VARIABLES,
            )
        self._connection = ours

    def prepare(self, size: int) -> None:
        """Before the first save: start the process, and have it touch memory in idle time.

        Args:
            size: About what will be copied [bytes].
        """
        self.start()
        if size > 0:
            self._touched = self._arena.reserve(size + size // _SPARE)
            self.order(TouchOrder(segment=self._touched))

    @contextlib.contextmanager
    def staging(self) -> Generator[Stage]:
        """Copy what is saved meanwhile, and have the process started; the last order has ended."""
        self.start()
        if self._touched is not None:
            self._hurry()
            self._arena.map(self._touched)
            self.result()
            self._touched = None
        self._arena.reuse()
        with staging(self._arena) as stage:
            yield stage

    def order(self, order: WriteOrder | FollowOrder | TouchOrder) -> None:
        """Give an order; the one before has ended.

        Raises:
            CheckpointError: If the process is gone.
        """
        self._reply = None
        connection = self._connection
        assert connection is not None, "it was not started"
        try:
            for begin in range(self._num_sent, len(self._arena.segments), MOST_DESCRIPTORS):
                new = self._arena.segments[begin : begin + MOST_DESCRIPTORS]
                sizes = [segment.content.numel() for segment in new]
                send(connection, Segments(sizes=sizes), [segment.descriptor for segment in new])
                self._num_sent += len(new)
            if changed := self._changed_variables():
                send(connection, Variables(changed=changed))
            send(connection, order)
        except OSError as error:
            raise self._ended() from error

    def has_ended(self) -> bool:
        """Whether the last order has ended; never blocks."""
        if self._reply is None and self._connection is not None:
            poll = select.poll()
            poll.register(self._connection, select.POLLIN)
            while self._reply is None and poll.poll(0):
                self._hear()
        return self._reply is not None

    def result(self) -> Reply:
        """Wait until the last order has ended.

        Raises:
            Exception: What ended it.
        """
        self._hurry()
        while self._reply is None:
            self._hear()
        if self._reply.error is not None:
            raise self._reply.error
        return self._reply

    def close(self) -> None:
        """End the process, whatever it does, and give the memory back."""
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None
        self._num_sent, self._touched = 0, None
        self._arena.close()

    def _changed_variables(self) -> dict[str, str | None]:
        before, self._environment = self._environment, dict(os.environ)
        names = before.keys() | self._environment.keys()
        changed = {name: self._environment.get(name) for name in names - _OWN_VARIABLES.keys()}
        return {name: value for name, value in changed.items() if before.get(name) != value}

    def _hurry(self) -> None:
        """Have the last order followed at the rank's own priority from now on."""
        if not self.has_ended():
            with contextlib.suppress(OSError):  # what is wrong is heard next
                assert self._connection is not None, "it was not started"
                send(self._connection, Hurry())

    def _hear(self) -> None:
        """Take one message: a line that is logged here, or the reply."""
        assert self._connection is not None
        try:
            message: Said | Reply = receive(self._connection)[0]
        except (EOFError, OSError):
            message = Reply(error=self._ended())
        if isinstance(message, Said):
            logging.getLogger(message.logger).log(message.level, message.text)
        else:
            self._reply = message

    def _ended(self) -> CheckpointError:
        assert self._process is not None
        status = self._process.wait()
        how = f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
        return CheckpointError(
            f"The process that writes the checkpoints of this worker beside training {how}. If the machine is out of "
            "memory, the kernel kills processes; lower what runs there, or set async_save=False."
        )
