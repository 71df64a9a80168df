"""A Ray cluster of several raylets on this machine, whose head takes no workers, and drivers as processes of their own.

Ray keeps the cluster's state in Redis, where there is one, and survives the death of its control store then. The nodes
share disk and address, so what a network does to them is tested in ``tests/cluster``.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster

from tests.leftovers import end_rest, members, wait_for_end
from tests.ray_cluster import ENVIRONMENT, ROOT

LIMIT_S = 150.0


class Driver:
    """A script that trains, and what it prints."""

    def __init__(self, module: str, directory: Path, *words: str, environment: dict[str, str]) -> None:
        self.directory = directory
        self._log = directory.with_suffix(".log")
        with self._log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(directory), *words],
                env=environment,
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        return self._log.read_text()

    def finish(self, code: int = 0) -> str:
        """Wait for the end, which must come with an exit code, and return what was printed."""
        found = self.process.wait(LIMIT_S)
        assert found == code, f"exit code {found}\n{self.output[-4000:]}\n{self._log_of_ray()}"
        return self.output

    def _log_of_ray(self) -> str:
        """The end of what Ray's part of the process logged."""
        logs = self.directory.parent.glob(f"ray/session_*/logs/python-core-driver-*_{self.process.pid}.log")
        return "\n".join(log.read_text()[-4000:] for log in logs)

    def halted(self, moment: str) -> str:
        """Wait until a worker halts at a moment, and return its node's id."""
        mark = self.directory / f"{moment}.halted"
        self.wait_until(mark.exists, f"no halt at {moment}")
        return mark.read_text()

    def go_on(self, moment: str) -> None:
        """Let the worker go on that halts."""
        (self.directory / f"{moment}.halted").unlink()

    def wait_until(self, is_so: Callable[[], bool], otherwise: str) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not is_so():
            code = self.process.poll()
            assert code is None, f"{otherwise}: the driver ended with {code}\n{self.output[-4000:]}"
            assert time.monotonic() < deadline, f"{otherwise} after {LIMIT_S} s\n{self.output[-4000:]}"
            time.sleep(0.05)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Raylets:
    """The cluster; workers run on nodes with one CPU each."""

    def __init__(self, directory: Path, num_nodes: int) -> None:
        self.directory = directory
        self.drivers: list[Driver] = []
        self._is_ended = False
        self.has_store = True
        """Ray's control store lives; without it, not every process of the cluster ends by itself."""
        self.cluster = Cluster(
            initialize_head=True,
            shutdown_at_exit=False,
            head_node_args={
                "num_cpus": 0,
                "temp_dir": str(directory / "ray"),
                "include_dashboard": False,
            },
        )
        for _ in range(num_nodes):
            self.add()

    def add(self, **options: Any) -> Any:
        """A node that joins."""
        return self.cluster.add_node(num_cpus=1, **options)

    def drive(self, run: str, *words: str, module: str = "tests.faults.node_run", **more: str) -> Driver:
        """Start a driver on the head node."""
        environment = {**os.environ, **ENVIRONMENT, "RAY_ADDRESS": self.cluster.address, **more}
        self.drivers.append(Driver(module, self.directory / run, *words, environment=environment))
        return self.drivers[-1]

    def kill_gcs(self) -> None:
        """SIGKILL Ray's control store."""
        self.has_store = False
        self.cluster.head_node.kill_gcs_server(check_alive=False)

    def start_gcs(self) -> None:
        """Start it again, as whoever runs the head does; it reads its state from Redis."""
        self.cluster.head_node.start_gcs_server()
        self.has_store = True

    def node(self, node_id: str) -> Any:
        return next(node for node in self.cluster.worker_nodes if node._node_id == node_id)

    def kill(self, node_id: str) -> None:
        """SIGKILL a raylet and all that it started, as if the power was cut."""
        node = self.node(node_id)
        raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
        for process in [raylet, *raylet.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGKILL)
        self.cluster.remove_node(node, allow_graceful=False)

    def drain(self, node_id: str, notice_s: float) -> None:
        """Tell Ray that a node will be taken away, as an autoscaler does."""
        from ray.core.generated import autoscaler_pb2

        reasons: Any = autoscaler_pb2
        reason = reasons.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        client: Any = ray._raylet.GcsClient(address=self.cluster.address)
        deadline_ms = int((time.time() + notice_s) * 1000)
        is_accepted, why = client.drain_node(node_id, reason, "the spot market", deadline_ms)
        assert is_accepted, why

    def end(self) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        for driver in self.drivers:
            driver.end()
        self.cluster.shutdown()


HAS_REDIS = shutil.which("redis-server") is not None


@contextlib.contextmanager
def redis(directory: Path) -> Iterator[dict[str, str]]:
    """A Redis on the loopback, and what tells Ray of it."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [
        "redis-server",
        "--port",
        str(port),
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--dir",
        str(directory),
    ]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + LIMIT_S
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < deadline, "Redis does not start"
            time.sleep(0.05)
        yield {"RAY_REDIS_ADDRESS": f"127.0.0.1:{port}"}
    finally:
        server.kill()
        server.wait()


@contextlib.contextmanager
def raylets(num_nodes: int, *, has_redis: bool = HAS_REDIS, **environment: str) -> Iterator[Raylets]:
    """A cluster of a head without CPUs and some nodes with one CPU each; nothing of it stays.

    Args:
        num_nodes: Nodes with a CPU.
        has_redis: It keeps its state there.
        **environment: Variables of its processes.
    """
    # Short: the path of a socket has at most 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="rl-", dir="/tmp"))
    before = dict(os.environ)
    os.environ.update(ENVIRONMENT | environment)
    if not has_redis:
        os.environ.pop("RAY_REDIS_ADDRESS", None)  # that of another cluster
    found = None
    try:
        with redis(directory) if has_redis else contextlib.nullcontext({}) as of_redis:
            os.environ.update(of_redis)
            found = Raylets(directory, num_nodes)
            yield found
            found.end()
    finally:
        if found is not None:
            found.end()
        os.environ.clear()
        os.environ.update(before)
        if found is None or found.has_store:
            wait_for_end(directory)
        else:
            end_rest(directory)
        left = members(directory)
        shutil.rmtree(directory, ignore_errors=True)
        assert left == [], "processes of the cluster are left"
