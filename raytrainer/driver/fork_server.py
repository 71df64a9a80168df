"""Whether workers on the driver's machine are forked from a process that has done their imports, and which ones.

Its start takes as long as Ray's own, and both go on at the same time. It is used on a Ray that ends with this process:
in a cluster a worker's environment is made by others. See ``raytrainer/worker/fork_server/``.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raytrainer.driver.cluster import ENVIRONMENT, at_exit
from raytrainer.wire.search_path import is_installed
from raytrainer.worker import fork_server
from raytrainer.worker.fork_server.modules import EACH_WORKER, OF_RAY, STATE, may_be_forked

logger = logging.getLogger(__name__)

_HANDOVER = Path(str(fork_server.__file__)).with_name("handover.py")  # not imported: it is for Unix alone
OF_PLAIN_PYTHON = {
    "env_vars",
    "working_dir",
    "excludes",
    "py_modules",
    "config",
    "_ray_commit",
    "_ray_release",
}
"""Parts of a runtime environment after which Python is still the one that Ray itself starts."""


SAME_FILE = ("raytrainer", "torch", "transformers", "accelerate")


class ForkServer:
    """The process that workers are forked from.

    Args:
        modules: What it imports.
        directory: Its own, which only this user can enter; by default a new one.
        environment: In which it imports; by default that of this process.
        niceness: With which it imports, if not with that of this process, which its workers have.
    """

    def __init__(
        self,
        modules: Sequence[str],
        *,
        directory: Path | None = None,
        environment: Mapping[str, str] | None = None,
        niceness: int | None = None,
    ) -> None:
        # Only this user enters it.
        self.directory = directory or Path(tempfile.mkdtemp(prefix="raytrainer-fork-", dir="/tmp"))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(self._socket))
            listener.listen(128)
            command = [sys.executable, "-m", "raytrainer.worker.fork_server.server"]
            self._process = subprocess.Popen(
                [*command, str(self.directory), str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                env=_environment(environment or os.environ),
                start_new_session=True,  # Ctrl-C in a terminal is the driver's.
            )
        order = {"modules": list(modules), "files": _files_here(), "niceness": niceness}
        with contextlib.suppress(OSError):  # It has ended already, and nobody finds it.
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()

    @property
    def _socket(self) -> Path:
        return self.directory / "socket"

    @property
    def pid(self) -> int:
        """Of the server."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """Workers may still be forked; those that ask while it is not are started by Ray."""
        return self._process.poll() is None

    @property
    def py_executable(self) -> str:
        """What Ray starts in place of Python, for a runtime environment."""
        return shlex.join([sys.executable, "-I", "-S", str(_HANDOVER), str(self._socket)])

    def wait(self) -> None:
        """Wait until the server has ended by itself."""
        self._process.wait()

    def end(self) -> None:
        """End the server; its workers stay."""
        with contextlib.suppress(OSError):
            assert self._process.stdin is not None
            self._process.stdin.close()
        self._process.kill()
        self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)


_lock = threading.Lock()
_servers: list[ForkServer] = []
"""The one of this process, once it has been started."""


def start_fork_server(modules: Sequence[str]) -> ForkServer | None:
    """The fork server of this process, which is started if there is none.

    Args:
        modules: What workers import besides what all of them do.

    Returns:
        None where workers cannot be forked.
    """
    if sys.platform != "linux":
        return None
    with _lock:
        alive = [server for server in _servers if server.is_alive]
        if not alive:
            try:
                alive = [ForkServer(imports_of_workers(modules))]
            except OSError:
                logger.debug("Could not start the fork server.", exc_info=True)
                return None
            at_exit(alive[0].end)
        _servers[:] = alive
        return alive[0]


def imports_of_workers(modules: Sequence[str]) -> list[str]:
    """What a fork server imports.

    Args:
        modules: What workers import besides what all of them do.
    """
    return [*EACH_WORKER, *OF_RAY, *filter(may_be_forked, modules)]


def state_of_server() -> dict[str, Any] | None:
    """What the fork server of this process notes of itself: "began" and "ready" [s since the epoch], "refusal"."""
    for server in _servers:
        with contextlib.suppress(OSError, ValueError):
            return json.loads((server.directory / STATE).read_text())
    return None


def starts_plain_python(runtime_env: Mapping[str, Any]) -> bool:
    """Whether workers in a runtime environment of Ray are started with this process' Python.

    Args:
        runtime_env: That of the job.
    """
    return not {name for name, value in runtime_env.items() if value} - OF_PLAIN_PYTHON


def _environment(here: Mapping[str, str]) -> dict[str, str]:
    """The environment of the server: that of a worker, as far as modules look at it."""
    # Ray gives a worker as many threads as it reserves CPUs, unless the user has said how many; the worker sets it.
    return {"OMP_NUM_THREADS": "1", **ENVIRONMENT, **here}


def _files_here() -> dict[str, str]:
    """The files that modules must have in a fork too: large packages, and modules that are not installed.

    A module of the script's directory may hide an installed one. Copies of an installed module, as Ray has them, do not
    differ in what workers do with them.
    """
    found = {
        name: getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if "." not in name
    }
    return {
        name: str(file)
        for name, file in found.items()
        if file is not None
        and not name.startswith("__")
        and (name in SAME_FILE or not is_installed(str(file)))
    }
