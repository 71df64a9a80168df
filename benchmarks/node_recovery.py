"""What a node costs that dies, and one that comes: the time until the next new step.

    python benchmarks/node_recovery.py [--rounds 3] [--fixed]

Three raylets on this machine: a head without CPUs, where the driver is, and two nodes with one CPU each. Two workers
train, at least one of them needed, with a checkpoint at every fifth step and 0.3 s per step. The node of rank 1 is
killed, and the run goes on with one worker; then another node comes, and it goes on with two. Both sides keep their
defaults. The peer is transformers.Trainer in an elastic TorchTrainer, written by hand with prepare_trainer and
RayTrainReportCallback.

With --fixed two workers are needed, and the other node comes at once: the time from the kill to the next new step.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster
from scripts.run import FOREIGN, HERE, SIDES, interleaved, report

KILL_AFTER = 8
"""The node is killed when rank 0 has done that many steps."""
STEPS_BEFORE_GROWTH = 3
"""New steps with one worker, before the other node comes."""
MAX_STEPS = 5000
"""Never reached: the script is ended."""
WAIT_S = 400.0


class Script:
    """A side's script, training on the cluster."""

    def __init__(self, side: str, directory: Path, address: str, *flags: str) -> None:
        self.marks_file = directory / "marks.jsonl"
        self.log = directory / "log"
        command = [sys.executable, str(HERE / SIDES[side]), "--directory", str(directory)]
        command += ["--max_steps", str(MAX_STEPS), "--step_s", "0.3", "--address", address, *flags]
        kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                command, env=kept | {"OMP_NUM_THREADS": "1"}, stdout=log, stderr=subprocess.STDOUT
            )

    def marks(self, name: str) -> list[dict[str, Any]]:
        """The marks of a name so far."""
        if not self.marks_file.exists():
            return []
        found = map(json.loads, self.marks_file.read_text().splitlines())
        return [mark for mark in found if mark["name"] == name]

    def wait_for(self, what: str, condition: Callable[[], dict[str, Any] | None]) -> dict[str, Any]:
        """Wait for a mark.

        Raises:
            SystemExit: If it does not come.
        """
        deadline = time.monotonic() + WAIT_S
        while (found := condition()) is None:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"There was no {what}:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.05)
        return found

    def new_step(self, after: dict[str, Any], *, workers: int | None = None) -> dict[str, Any]:
        """The first step beyond those that were done at a time, when so many workers train."""

        def find() -> dict[str, Any] | None:
            steps = self.marks("step")
            reached = max((one["step"] for one in steps if one["time"] <= after["time"]), default=0)
            began = [
                one["time"]
                for one in self.marks("began")
                if one["time"] > after["time"] and workers in (None, one["workers"])
            ]
            new = [one for one in steps if began and one["time"] > began[0] and one["step"] > reached]
            return new[0] if new else None

        return self.wait_for("new step", find)

    def step(self, number: int) -> dict[str, Any]:
        """Wait for a step."""

        def find() -> dict[str, Any] | None:
            found = [one for one in self.marks("step") if one["step"] >= number]
            return found[0] if found else None

        return self.wait_for(f"step {number}", find)


@contextlib.contextmanager
def running(side: str, *flags: str) -> Iterator[tuple[Cluster, Script]]:
    """A cluster with two nodes for workers, and a script that trains there."""
    directory = Path(tempfile.mkdtemp(prefix="rtb-", dir="/tmp"))
    os.environ |= {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    cluster = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "include_dashboard": importlib.util.find_spec("aiohttp_cors") is not None,
            "temp_dir": str(directory / "r"),
        },
    )
    script = None
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        script = Script(side, directory, cluster.address, *flags)
        yield cluster, script
    finally:
        if script is not None:
            script.process.kill()
            script.process.wait()
        cluster.shutdown()
        shutil.rmtree(directory, ignore_errors=True)


def kill_node_of_rank_1(cluster: Cluster, script: Script) -> dict[str, Any]:
    """Kill a raylet, as if its machine had lost power."""
    where = [one["node"] for one in script.marks("on") if one["rank"] == 1][-1]
    (node,) = (one for one in cluster.list_all_nodes() if one.node_id == where)
    killed = {"time": time.time()}
    cluster.remove_node(node, allow_graceful=False)
    return killed


def measure(side: str, *, fixed: bool) -> dict[str, float]:
    """Seconds until the next new step."""
    with running(side, *([] if fixed else ["--elastic"])) as (cluster, script):
        script.step(KILL_AFTER)
        killed = kill_node_of_rank_1(cluster, script)
        if fixed:
            cluster.add_node(num_cpus=1)
            return {"replaced": script.new_step(killed)["time"] - killed["time"]}
        shrunk = script.new_step(killed, workers=1)
        script.step(shrunk["step"] + STEPS_BEFORE_GROWTH)
        came = {"time": time.time()}
        cluster.add_node(num_cpus=1)
        grown = script.new_step(came, workers=2)
        return {"died": shrunk["time"] - killed["time"], "came": grown["time"] - came["time"]}


TITLES = {
    "replaced": "a node killed and replaced, until the next new step",
    "died": "a node killed, until the next new step with one worker",
    "came": "a node that came, until the next new step with two workers",
}


def main() -> None:
    """Run the rounds and print the ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--fixed", action="store_true", help="two workers, and a node in place of the dead one"
    )
    options = parser.parse_args()
    times: dict[str, dict[str, list[float]]] = {}
    for side in interleaved(options.rounds):
        for what, seconds in measure(side, fixed=options.fixed).items():
            times.setdefault(what, {}).setdefault(side, []).append(seconds)
            print(f"{side:10}  {what:8} {seconds:7.2f} s", flush=True)
    for what, by_side in times.items():
        report(TITLES[what], by_side)


if __name__ == "__main__":
    main()
