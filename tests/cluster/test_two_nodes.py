"""A cluster of two nodes with addresses of their own, as in cluster/local/two_nodes.sh. ``make cluster`` runs this.

It needs root and two minutes, and ends every process in its network namespaces.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster/local/two_nodes.sh"
LIMIT_S = 200

pytestmark = [
    pytest.mark.serial,
    pytest.mark.ray,
    pytest.mark.timeout(400),
    pytest.mark.skipif(not os.environ.get("RAYTRAINER_TWO_NODES"), reason="`make cluster` runs it, as root"),
]


class TwoNodes:
    """The cluster, and drivers on its head node."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.drivers: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(ROOT),
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(directory / "token"),
            "TWO_NODES_DIRECTORY": str(directory / "nodes"),
            "TWO_NODES_PRIVATE": str(directory / "apart"),
        }
        (directory / "apart").mkdir()
        (directory / "token").write_text("0123456789abcdef0123456789abcdef")

    def do(self, *words: str) -> None:
        subprocess.run([SCRIPT, *words], env=self.environment, check=True, timeout=LIMIT_S)

    def is_alive(self, node: str) -> bool:
        """Whether the cluster counts a node as alive."""
        done = subprocess.run([SCRIPT, "alive", node], env=self.environment, check=False, timeout=LIMIT_S)
        return done.returncode == 0

    def drive(self, run: str, *words: str) -> subprocess.Popen[bytes]:
        """Start a driver, and end that of a test that failed; its output is in ``run.log``."""
        self.end_drivers()
        command = [
            SCRIPT,
            "exec",
            sys.executable,
            "-m",
            "tests.cluster.train",
            str(self.directory / run),
            *words,
        ]
        with (self.directory / f"{run}.log").open("w") as log:
            self.drivers.append(
                subprocess.Popen(
                    command, env=self.environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT
                )
            )
        return self.drivers[-1]

    def end_drivers(self) -> None:
        """End those that still run."""
        for driver in self.drivers:
            if driver.poll() is None:
                driver.kill()
                driver.wait()

    def finish(self, run: str, driver: subprocess.Popen[bytes]) -> str:
        """Wait for a driver, which must succeed, and return its output."""
        code = driver.wait(LIMIT_S)
        output = (self.directory / f"{run}.log").read_text()
        assert code == 0, output[-3000:]
        return output

    def wait_for(self, path: Path, driver: subprocess.Popen[bytes]) -> None:
        self.wait_until(path.exists, driver)

    def wait_until(self, is_so: Callable[[], bool], driver: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + LIMIT_S
        while not is_so():
            assert driver.poll() is None, f"the driver ended with {driver.returncode} before that"
            assert time.monotonic() < deadline, f"it did not come to that in {LIMIT_S} s"
            time.sleep(0.1)

    def weights(self, run: str) -> dict[str, list[float]]:
        found = load_file(self.directory / run / "model.safetensors")
        return {name: tensor.flatten().tolist() for name, tensor in found.items()}


@pytest.fixture(scope="module")
def nodes() -> Iterator[TwoNodes]:
    # Short: the path of a socket has at most 107 characters.
    with tempfile.TemporaryDirectory(prefix="rt2-", dir="/tmp", ignore_cleanup_errors=True) as name:
        found = TwoNodes(Path(name))
        try:
            found.do("up")
            yield found
        finally:
            found.end_drivers()
            found.do("down")
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, check=True, text=True).stdout
        assert "rt-" not in listed


@pytest.fixture(scope="module")
def quiet(nodes: TwoNodes) -> dict[str, list[float]]:
    """The weights of a run that nothing disturbs."""
    output = nodes.finish("quiet", nodes.drive("quiet"))
    assert "restart" not in output
    return nodes.weights("quiet")


def test_ranks_on_two_hosts_meet_although_the_hosts_names_are_those_of_the_loopback(
    quiet: dict[str, list[float]],
) -> None:
    assert quiet


def test_a_node_that_dies_in_a_step_and_is_replaced_leaves_the_weights_bitwise(
    nodes: TwoNodes, quiet: dict[str, list[float]]
) -> None:
    driver = nodes.drive("killed", "5")
    nodes.wait_for(nodes.directory / "killed/marked", driver)
    nodes.do("kill", "worker")
    (nodes.directory / "killed/marked").unlink()
    nodes.do("start", "worker")
    assert "restart 1 of" in nodes.finish("killed", driver)
    assert nodes.weights("killed") == quiet


def test_a_node_that_is_taken_with_notice_is_left_in_time_and_no_failure_is_counted(
    nodes: TwoNodes, quiet: dict[str, list[float]]
) -> None:
    driver = nodes.drive("taken", "5")
    nodes.wait_for(nodes.directory / "taken/marked", driver)
    nodes.do("take", "worker")
    log = nodes.directory / "taken.log"
    nodes.wait_until(lambda: "Node 10.77.0.2, where workers run, is drained until" in log.read_text(), driver)
    (nodes.directory / "taken/marked").unlink()
    nodes.wait_until(lambda: "Saved step 5: the workers leave" in log.read_text(), driver)
    nodes.wait_until(lambda: not nodes.is_alive("worker"), driver)
    nodes.do("start", "worker")
    output = nodes.finish("taken", driver)
    assert "restart 1 of" not in output
    assert "from checkpoint-5" in output
    assert nodes.weights("taken") == quiet


def test_a_network_that_is_cut_for_five_seconds_costs_time_alone(
    nodes: TwoNodes, quiet: dict[str, list[float]]
) -> None:
    driver = nodes.drive("cut", "5")
    nodes.wait_for(nodes.directory / "cut/marked", driver)
    nodes.do("cut")
    (nodes.directory / "cut/marked").unlink()
    time.sleep(5)  # the disturbance itself, and no synchronization
    nodes.do("mend")
    nodes.finish("cut", driver)
    assert nodes.weights("cut") == quiet


def test_a_disk_that_the_nodes_do_not_share_is_refused_before_the_first_step(nodes: TwoNodes) -> None:
    driver = nodes.drive("apart/run")
    began = time.monotonic()
    assert driver.wait(LIMIT_S) == 1
    output = (nodes.directory / "apart/run.log").read_text()
    assert "is not the same directory on all nodes that have workers" in output
    assert "(rank 0) writes there is not seen on" in output
    assert time.monotonic() - began < 60
    left = {path.name for path in (nodes.directory / "apart/run").iterdir()}
    assert left <= {"logs", "events.jsonl", "report.html"}, "what the driver records of a run that failed"


def test_a_network_that_is_cut_for_thirty_seconds_costs_at_most_a_restart(
    nodes: TwoNodes, quiet: dict[str, list[float]]
) -> None:
    driver = nodes.drive("partition", "5")
    nodes.wait_for(nodes.directory / "partition/marked", driver)
    nodes.do("cut")
    (nodes.directory / "partition/marked").unlink()
    time.sleep(30)  # the disturbance itself, and no synchronization
    nodes.do("mend")
    if not nodes.is_alive("worker"):
        nodes.do("start", "worker")
    nodes.finish("partition", driver)
    assert nodes.weights("partition") == quiet
