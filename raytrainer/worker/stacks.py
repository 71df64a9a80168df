"""Where a rank is: what the driver is told when a run hangs, and the Python stacks in the rank's log.

A thread of the rank answers while another one trains. It cannot when native code holds Python's lock; for that case a
signal, which needs no lock, writes the same stacks.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType
from typing import TextIO

import psutil

from raytrainer.wire.messages import Place, RankProcess

_REAL_TIME: int | None = getattr(signal, "SIGRTMIN", None)
STACK_SIGNAL = None if _REAL_TIME is None else _REAL_TIME + 9
"""Writes the stacks of a worker into its log. One that nothing else uses."""
_COLLECTIVES = ("torch/distributed/distributed_c10d.py", "torch/distributed/c10d_logger.py")
_BACKWARD = "_engine_run_backward"
_NO_PLACE = ("/site-packages/", "/lib/python", "raytrainer/runtimes/")
"""Parts of paths of code that says little about where a rank is."""


def this_process(rank: int, node_id: str, log_file: Path | None) -> RankProcess:
    """This process, as the driver finds it again.

    Args:
        rank: Its rank.
        node_id: Ray's id of its node.
        log_file: Its log.
    """
    return RankProcess(
        rank=rank,
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        host=socket.gethostname(),
        node_id=node_id,
        log_file=None if log_file is None else str(log_file),
    )


def place_of(thread: int, rank: int) -> Place:
    """Where a thread of this process is.

    Args:
        thread: Its identifier.
        rank: Of this process.
    """
    frame = sys._current_frames().get(thread)
    frames: list[FrameType] = []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    return Place(rank=rank, collective=_collective(frames), at=_line(frames))


def _collective(frames: list[FrameType]) -> str | None:
    """The collective that the innermost frames are in; None if they are in none."""
    name: str | None = None
    for frame in frames:
        code = frame.f_code
        if code.co_filename.endswith(_COLLECTIVES):
            name = code.co_name if not code.co_name.startswith("_") and code.co_name != "wrapper" else name
        elif name is not None:
            return name
        elif code.co_name == _BACKWARD:
            return "the backward pass, in which gradients are reduced"
    return name


def _line(frames: list[FrameType]) -> str:
    """The innermost line that says where the rank is: of raytrainer's loop or the user's code."""
    for frame in frames:
        path = frame.f_code.co_filename
        if not any(part in path for part in _NO_PLACE):
            return f"{'/'.join(Path(path).parts[-2:])}:{frame.f_lineno} in {frame.f_code.co_name}"
    return "unknown code"


class StackWriter:
    """Writes the stacks of all threads of this process into a log.

    Args:
        log_file: The log; stderr if it is None.
    """

    def __init__(self, log_file: Path | None) -> None:
        self._own: TextIO | None = None
        if log_file is not None:
            self._own = log_file.open("a", encoding="utf-8")
        self._file: TextIO = self._own or sys.stderr
        if STACK_SIGNAL is not None:
            faulthandler.register(STACK_SIGNAL, file=self._file, all_threads=True)

    def write(self) -> None:
        """Write the stacks."""
        self._file.write(
            f"{time.strftime('%Y-%m-%d %H:%M:%S')} stacks of all threads, as the driver asked:\n"
        )
        self._file.flush()
        faulthandler.dump_traceback(file=self._file, all_threads=True)

    def close(self) -> None:
        """Write no more."""
        if STACK_SIGNAL is not None:
            faulthandler.unregister(STACK_SIGNAL)
        if self._own is not None:
            self._own.close()
