"""Whether the raylet of this machine, through which this process reaches Ray's objects, still lives.

When it does not, Ray ends this process the next time that it touches an object, with exit code 1 and without a word. So
the driver looks first. Linux tells which process is behind a socket; elsewhere nobody looks.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

import psutil
import ray

from raytrainer.errors import TrainingFailed

_CONNECT_S = 5.0


class OwnRaylet:
    """The raylet of this machine, or nothing where it cannot be found.

    Args:
        pid: Of its process.
    """

    def __init__(self, pid: int | None) -> None:
        self._process: psutil.Process | None = None
        if pid:
            with contextlib.suppress(psutil.NoSuchProcess):
                self._process = psutil.Process(pid)

    @property
    def has_ended(self) -> bool:
        """Whether its process is gone, or waits only for its parent to see that."""
        if self._process is None:
            return False
        try:
            return not self._process.is_running() or self._process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    def lost(self, last_checkpoint: str | None) -> TrainingFailed:
        """The error for a call that its end interrupted.

        Args:
            last_checkpoint: Where the last one is that was committed.
        """
        assert self._process is not None
        saved = (
            f"Last committed checkpoint: {last_checkpoint}. "
            if last_checkpoint
            else "No checkpoint was committed. "
        )
        return TrainingFailed(
            f"Ray on this machine has ended: its raylet (pid {self._process.pid}) was killed or crashed, and workers "
            f'cannot be reached any more. {saved}Call train(resume_from_checkpoint="auto") to go on from the newest '
            "checkpoint, in this script or in the next run of it."
        )


def own_raylet() -> OwnRaylet:
    """The raylet that this process is connected to."""
    path, option = _socket(), getattr(socket, "SO_PEERCRED", None)
    if path is None or option is None:
        return OwnRaylet(None)
    with contextlib.suppress(OSError), _connected(path) as found:
        pid, _, _ = struct.unpack("3i", found.getsockopt(socket.SOL_SOCKET, option, struct.calcsize("3i")))
        return OwnRaylet(pid)
    return OwnRaylet(None)


def is_gone() -> bool:
    """Whether nobody listens any more where this process found its raylet."""
    path = _socket()
    if path is None:
        return False
    try:
        _connected(path).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    except OSError:
        return False
    return False


def _socket() -> str | None:
    # Ray has no public way to ask. If this one goes away, nobody looks.
    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    path: object = getattr(getattr(worker, "_global_node", None), "raylet_socket_name", None)
    return path if isinstance(path, str) else None


def _connected(path: str) -> socket.socket:
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        found.settimeout(_CONNECT_S)
        found.connect(path)
    except BaseException:
        found.close()
        raise
    return found
