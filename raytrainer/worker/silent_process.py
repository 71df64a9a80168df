"""What is found out about a rank that does not answer, by another process of its node."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil

from raytrainer.wire.messages import RankProcess
from raytrainer.worker.stacks import STACK_SIGNAL

DUMP_S = 10.0
"""How long py-spy may take."""
_STATES = {
    psutil.STATUS_STOPPED: "is stopped, by SIGSTOP or a debugger",
    psutil.STATUS_TRACING_STOP: "is stopped by a debugger",
    psutil.STATUS_DISK_SLEEP: "waits for a disk, a file server or a driver in the kernel",
    psutil.STATUS_ZOMBIE: "has ended",
    psutil.STATUS_DEAD: "has ended",
}


def examine(rank: RankProcess, *, ends: bool = False) -> str:
    """Find out what a process does, and bring its Python stacks into its log.

    Args:
        rank: The process, on this node.
        ends: Kill it after that: it would not end by itself.

    Returns:
        What it does: the rest of a sentence that begins with "its process".
    """
    where = f"{rank.pid} on {rank.host}"
    try:
        process = psutil.Process(rank.pid)
        if process.create_time() != rank.started:
            return f"{where} has ended"
        state = process.status()
        text = _STATES.get(state)
        without_stacks = _dump(rank)
        if text is None and without_stacks and _ask_by_signal(rank):
            without_stacks = None
        if ends:
            process.kill()
    except psutil.NoSuchProcess:
        return f"{where} has ended"
    text = text or "runs, and no other thread of it can: native code holds Python's lock"
    return f"{where} {text}" + (f" ({without_stacks})" if without_stacks else "")


def _dump(rank: RankProcess) -> str | None:
    """Write the stacks that py-spy reads into the rank's log. It reads those of stopped processes too.

    Returns:
        Why there are none; None if they are there.
    """
    beside = str(Path(sys.executable).parent)
    program = shutil.which("py-spy", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if rank.log_file is None:
        return "it has no log to write its stack to"
    if program is None:
        return "py-spy, which would read its stack, is not installed"
    try:
        done = subprocess.run(
            [program, "dump", "--nonblocking", "--pid", str(rank.pid)],
            capture_output=True,
            text=True,
            timeout=DUMP_S,
            check=True,
        )
        with Path(rank.log_file).open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} stacks of all threads, as py-spy saw them:\n")
            file.write(done.stdout)
    except (OSError, subprocess.SubprocessError) as error:
        return f"py-spy could not read its stack: {type(error).__name__}"
    return None


def _ask_by_signal(rank: RankProcess) -> bool:
    if STACK_SIGNAL is None or rank.log_file is None:
        return False
    os.kill(rank.pid, STACK_SIGNAL)
    return True
