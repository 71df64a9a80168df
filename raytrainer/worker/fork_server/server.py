"""The process that workers are forked from: imports modules, then forks a worker whenever one is asked for.

    python -m raytrainer.worker.fork_server.server DIRECTORY SOCKET_FD      (an order as a line of JSON on its stdin)

It ends when its stdin does, which is a pipe of the process that started it. Workers do not end with it.

It refuses, and ends, when a fork of it could go wrong: a thread of Python runs, Ray's library or a device has been
opened, or a module came from another file than on the driver. It refuses a single worker whose environment has another
value of a variable that may have mattered while modules were imported. Who is refused is started as Ray starts it.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import json
import os
import re
import resource
import runpy
import select
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from raytrainer.worker.fork_server.handover import TAKEN
from raytrainer.worker.fork_server.modules import STATE

MAY_DIFFER = re.compile(
    r"RAY_.*|OMP_NUM_THREADS|.*_VISIBLE_DEVICES|(NCCL|GLOO)_.*|MASTER_(ADDR|PORT)|CUDA_LAUNCH_BLOCKING"
    r"|CUBLAS_WORKSPACE_CONFIG|FLASH_ATTENTION_DETERMINISTIC|SPT_NOENV|PYTHONBREAKPOINT|PYTEST_CURRENT_TEST|PWD|OLDPWD|SHLVL|_"
)
"""Variables that no imported module has read: they are read when Ray is imported, when a device or a process group is
opened, or by a shell. The number of threads is set again in the worker."""
DEVICES = ("/dev/nvidia", "/dev/kfd", "/dev/dri", "/dev/accel", "/dev/habana", "/dev/neuron", "/dev/davinci")
READ_S = 10.0
"""How long a request may take to arrive."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """A worker that is to be forked."""

    connection: socket.socket
    """Closed when the worker ends."""
    streams: list[int]
    """Its stdin, stdout and stderr."""
    arguments: list[str]
    environment: dict[str, str]
    directory: str
    limits: list[list[int]]
    leads_group: bool
    niceness: int
    memory_score: str | None


def main() -> None:
    """Import, and fork until the driver has ended; then, in a worker, be that worker."""
    directory, listener = Path(sys.argv[1]), socket.socket(fileno=int(sys.argv[2]))
    order = json.loads(sys.stdin.readline())
    began, before = time.time(), dict(os.environ)
    _import_all(order["modules"], order["niceness"])
    refusal = why_not(order["files"])
    state = {"pid": os.getpid(), "began": began, "ready": time.time(), "refusal": refusal}
    (directory / STATE).write_text(json.dumps(state))
    if refusal is not None:
        return
    gc.collect()
    gc.freeze()  # The collector of a worker would otherwise write to, and so copy, every page.
    # Modules also set variables when they are imported.
    changes = {name: value for name, value in os.environ.items() if before.get(name) != value}
    wanted = _serve(listener, before)
    if wanted is None:
        shutil.rmtree(directory, ignore_errors=True)
    else:
        listener.close()
        _become(wanted, changes)


def _import_all(modules: list[str], niceness: int | None) -> None:
    """Import; in a thread, if that is to be nicer than this process, because forks get the niceness of the main thread.

    Args:
        modules: Names.
        niceness: Of the thread; None for that of this process.
    """
    if niceness is None:
        _import_each(modules)
        return

    def import_nicely() -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), niceness)
        _import_each(modules)

    thread = threading.Thread(target=import_nicely)
    thread.start()
    thread.join()


def _import_each(modules: list[str]) -> None:
    for name in modules:
        # A worker that needs it raises the error where somebody reads it.
        with contextlib.suppress(Exception):
            importlib.import_module(name)


def why_not(files: Mapping[str, str]) -> str | None:
    """Why this process must not be forked; None if it can be.

    Args:
        files: Name of a module -> its file on the driver.
    """
    if "ray._raylet" in sys.modules:
        return "Ray has been imported, whose connections do not work in a fork"
    running = [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()]
    if running:
        return f"threads are running, which a fork would lose: {', '.join(running)}"
    opened = [path for path in _open_files() if path.startswith(DEVICES)]
    if opened:
        return f"a device has been opened, which cannot be used in a fork: {', '.join(opened)}"
    for name, file in files.items():
        found = getattr(sys.modules.get(name), "__file__", None)
        if found is not None and os.path.realpath(found) != os.path.realpath(file):
            return f"{name} comes from {found}, and on the driver from {file}"
    return None


def _open_files() -> list[str]:
    paths: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            paths.append(os.readlink(entry))
    return paths


def _serve(listener: socket.socket, own: Mapping[str, str]) -> Wanted | None:
    """Fork whenever somebody asks.

    Args:
        listener: Where they ask.
        own: The environment in which modules were imported.

    Returns:
        In a fork, what it is to become; None in the server, when the driver has ended.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # Nobody waits for workers; Ray sees them end.
    while True:
        ready, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in ready:
            return None
        connection, _ = listener.accept()
        wanted = _read(connection)
        if wanted is not None and not differing(own, wanted.environment):
            with contextlib.suppress(OSError):
                connection.sendall(TAKEN)
                if os.fork() == 0:
                    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                    return wanted
        if wanted is not None:
            for stream in wanted.streams:
                os.close(stream)
        connection.close()


def _read(connection: socket.socket) -> Wanted | None:
    """What a connection asks for; None if it is broken off."""
    connection.settimeout(READ_S)
    streams = array.array("i")
    try:
        _, passed, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(3 * streams.itemsize))
        for _, _, numbers in passed:
            streams.frombytes(numbers)
        with connection.makefile("rb") as file:
            asked: dict[str, Any] = json.loads(file.readline())
        connection.settimeout(None)
        return Wanted(connection=connection, streams=list(streams), **asked)
    except (OSError, ValueError):
        for stream in streams:
            os.close(stream)
        return None


def differing(own: Mapping[str, str], wanted: Mapping[str, str]) -> list[str]:
    """Variables that have another value in a worker, and may have mattered while modules were imported."""
    wanted = {"TORCH_CPP_LOG_LEVEL": "ERROR", **wanted}  # A worker sets it before it imports torch.
    return sorted(
        name
        for name in own.keys() | wanted.keys()
        if own.get(name) != wanted.get(name) and not MAY_DIFFER.fullmatch(name)
    )


def _become(wanted: Wanted, changes: Mapping[str, str]) -> None:
    """Be the process that Ray would have started.

    Args:
        wanted: What Ray wanted to start.
        changes: Variables that imports have set.
    """
    for number, stream in enumerate(wanted.streams):
        os.dup2(stream, number)
        os.close(stream)
    if wanted.leads_group:
        os.setpgid(0, 0)
    for limit, soft, hard in wanted.limits:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(limit, (soft, hard))
    if wanted.niceness > os.getpriority(os.PRIO_PROCESS, 0):
        os.setpriority(os.PRIO_PROCESS, 0, wanted.niceness)
    elif wanted.niceness < os.getpriority(os.PRIO_PROCESS, 0):
        # The server descends from a worker, so this process is as nice as a worker already, and Ray must add nothing.
        wanted.environment["RAY_worker_niceness"] = "0"
    if wanted.memory_score is not None:
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text(wanted.memory_score)
    os.environ.clear()
    os.environ.update(wanted.environment)
    os.environ.update(changes)
    os.chdir(wanted.directory)
    # Python's own generator is seeded anew in every fork; these are not.
    numpy, torch = (cast("Any", sys.modules.get(name)) for name in ("numpy", "torch"))
    if numpy is not None:
        numpy.random.seed()
    if torch is not None:
        torch.default_generator.seed()  # not torch.seed(), which touches devices
    sys.argv = wanted.arguments
    sys.path[0] = str(Path(wanted.arguments[0]).parent)
    runpy.run_path(wanted.arguments[0], run_name="__main__")


if __name__ == "__main__":
    main()
