"""A Ray cluster of one machine that asks for a token, with the dashboard that takes jobs."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.leftovers import end_group, members

ROOT = Path(__file__).parents[2]
RAY = [sys.executable, "-m", "ray.scripts.scripts"]
START_S = 60
TOKEN = "0123456789abcdef0123456789abcdef"


def free_ports(count: int) -> list[int]:
    """Distinct free ports, which Ray has to be given."""
    found = [socket.socket() for _ in range(count)]
    try:
        for one in found:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in found]
    finally:
        for one in found:
            one.close()


class Head:
    """A ``ray start --head`` in a process group of its own, so that it can be ended without ``ray stop``, which ends
    every Ray of the machine."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.environment = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
            # Jobs run `python`: the one that has raytrainer.
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        }
        (directory / "token").write_text(TOKEN)
        port, dashboard, agent, client = free_ports(4)
        self.address = f"127.0.0.1:{port}"
        self.url = f"http://127.0.0.1:{dashboard}"
        self.dashboard = dashboard
        ports = [
            f"--port={port}",
            f"--dashboard-port={dashboard}",
            f"--dashboard-agent-listen-port={agent}",
            f"--ray-client-server-port={client}",
        ]
        self.log = directory / "head.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*RAY, "start", "--head", "--block", "--num-cpus=2", *ports, f"--temp-dir={directory / 'r'}"],
                env=self.environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def wait(self) -> None:
        """Wait until the dashboard listens."""
        deadline = time.monotonic() + START_S
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.dashboard)) == 0:
                    return
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            assert time.monotonic() < deadline, self.log.read_text()[-3000:]
            time.sleep(0.1)

    def submit(self, *command: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run a command as a job, and wait for its end."""
        return self.job("submit", "--working-dir", ".", "--", *command, **changes)

    def job(self, action: str, *arguments: str, **changes: str) -> subprocess.CompletedProcess[str]:
        """Run ``ray job``."""
        return subprocess.run(
            [*RAY, "job", action, f"--address={self.url}", *arguments],
            check=False,
            cwd=ROOT,
            env={**self.environment, **changes},
            capture_output=True,
            text=True,
            timeout=200,
        )


@contextlib.contextmanager
def running_head() -> Iterator[Head]:
    """A cluster with two CPUs that ends with the block, and leaves no process."""
    # Short: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="rth-", dir="/tmp", ignore_cleanup_errors=True) as name:
        head = Head(Path(name))
        try:
            head.wait()
            yield head
        finally:
            head.process.send_signal(signal.SIGTERM)
            end_group(head.process, Path(name))
        assert members(Path(name)) == []
