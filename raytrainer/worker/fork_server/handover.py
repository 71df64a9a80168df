"""Stands where Ray starts Python for a worker: asks the fork server for the worker, else starts Python.

    python -I -S handover.py SOCKET default_worker.py --its-arguments ...

Run as a file, with nothing imported but the standard library, because its own start is part of every worker's.
"""

from __future__ import annotations

import array
import json
import os
import resource
import socket
import sys

ANSWER_S = 30.0
"""How long the server may take to answer: it imports first. Python itself would take about as long."""
TAKEN = b"1"
"""The server's answer when it forks."""
LIMITS = (resource.RLIMIT_NOFILE, resource.RLIMIT_CORE)
"""Limits that Ray may set for its workers."""


def hand_over(address: str, arguments: list[str]) -> socket.socket | None:
    """Ask the server for a worker.

    Args:
        address: Path of the server's socket.
        arguments: The script of the worker and its arguments.

    Returns:
        A connection that ends with the worker; None if the server does not make it.
    """
    wanted = {
        "arguments": arguments,
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "limits": [[limit, *resource.getrlimit(limit)] for limit in LIMITS],
        "leads_group": os.getpgrp() == os.getpid(),
        "niceness": os.getpriority(os.PRIO_PROCESS, 0),
        "memory_score": _memory_score(),
    }
    connection = socket.socket(socket.AF_UNIX)
    try:
        if os.stat(address).st_uid != os.getuid():
            return None  # Whoever else made it would become this user.
        connection.settimeout(ANSWER_S)
        connection.connect(address)
        streams = array.array("i", [0, 1, 2]).tobytes()
        connection.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
        connection.sendall(json.dumps(wanted).encode() + b"\n")
        if connection.recv(1) == TAKEN:
            connection.settimeout(None)
            return connection
    except OSError:
        pass
    connection.close()
    return None


def _memory_score() -> str | None:
    """How soon the kernel ends this process when memory runs out: Ray sets that."""
    try:
        with open("/proc/self/oom_score_adj") as file:
            return file.read()
    except OSError:
        return None


def main() -> None:
    """Become the worker, or stay until it has ended: Ray watches this process until the worker has reported to it."""
    address, *arguments = sys.argv[1:]
    connection = hand_over(address, arguments)
    if connection is None:
        os.execv(sys.executable, [sys.executable, *arguments])
    connection.recv(1)


if __name__ == "__main__":
    main()
