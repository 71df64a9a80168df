"""Finds the processes of one Ray by its directory: it is in their command line, or they have a log open in it.

Ray's workers write a title over their command line and their environment, so these would not do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path

END_S = 8


def members(directory: Path) -> list[str]:
    """Command lines of the living processes that belong to a directory."""
    return [command for _, command in _find(directory)]


def _find(directory: Path) -> list[tuple[int, str]]:
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
            is_one = str(directory) in command or any(
                str(directory) in os.readlink(handle) for handle in (process / "fd").iterdir()
            )
        except OSError:  # It has ended, or belongs to another user.
            continue
        if is_one:
            found.append((int(process.name), command))
    return found


def end_group(process: subprocess.Popen[bytes], directory: Path) -> None:
    """Wait until a stopping Ray has ended, and end the processes that remain."""
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    end_rest(directory)


def end_rest(directory: Path) -> None:
    """Wait until the processes of a directory have ended, and end those that remain."""
    if not wait_for_end(directory):
        for pid, _ in _find(directory):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        wait_for_end(directory)


def wait_for_end(directory: Path) -> bool:
    """Whether all processes of a directory end in time."""
    deadline = time.monotonic() + END_S
    while _find(directory):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True
