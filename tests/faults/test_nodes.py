"""Nodes that go, on a cluster of several raylets: the result is bitwise that of a quiet run."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.faults.node_run import STEPS
from tests.faults.raylets import HAS_REDIS, Driver, Raylets, raylets

pytestmark = [
    pytest.mark.faults,
    pytest.mark.ray,
    pytest.mark.timeout(300),
    pytest.mark.skipif(
        not os.environ.get("RAYTRAINER_TWO_NODES"), reason="takes five minutes; `make cluster` runs it"
    ),
]


@pytest.fixture(scope="module")
def nodes() -> Iterator[Raylets]:
    """A head that forbids workers, and three nodes for two workers."""
    with raylets(3) as found:
        yield found


Outcome = tuple[dict[str, torch.Tensor], list[dict[str, float]]]


def outcome(driver: Driver) -> Outcome:
    """The weights of a run, and its losses."""
    logs: list[dict[str, float]] = json.loads((driver.directory / "result.json").read_text())
    return load_file(driver.directory / "model.safetensors"), [log for log in logs if len(log) > 1]


def steps_of(driver: Driver, rank: int = 0) -> list[int]:
    """The steps that a rank did, in order, those that were done again included."""
    lines = Path(driver.directory, f"steps-{rank}").read_text().splitlines()
    return [int(line.split()[0]) for line in lines]


def assert_same(found: Outcome, expected: Outcome) -> None:
    assert found[1] == expected[1]
    for name, value in expected[0].items():
        assert torch.equal(found[0][name], value), name


@pytest.fixture(scope="module")
def quiet(nodes: Raylets) -> Outcome:
    driver = nodes.drive("quiet")
    output = driver.finish()
    assert "restart" not in output
    assert steps_of(driver) == list(range(1, STEPS + 1))
    return outcome(driver)


def test_nodes_that_die_in_a_step_a_save_and_an_evaluation_change_nothing(
    nodes: Raylets, quiet: Outcome
) -> None:
    moments = ["step-3", "save-4", "eval-6"]
    driver = nodes.drive("killed", *moments)
    for moment in moments:
        node = driver.halted(moment)
        assert node != nodes.cluster.head_node._node_id, "the head forbids workers"
        nodes.add()
        nodes.kill(node)
        driver.go_on(moment)
    output = driver.finish()
    assert "restart 3 of at most 3" in output
    assert_same(outcome(driver), quiet)


def test_a_drained_node_is_left_with_a_checkpoint_and_no_step_is_done_twice(
    nodes: Raylets, quiet: Outcome
) -> None:
    driver = nodes.drive("drained", "step-3", "slow")
    node = driver.halted("step-3")
    nodes.add()
    nodes.drain(node, notice_s=30)
    driver.wait_until(lambda: "is drained until" in driver.output, "the user reads of the drain")
    driver.go_on("step-3")
    output = driver.finish()
    assert "the workers leave, and others go on from there (not counted as a failure)" in output
    assert "restart 1" not in output, "it is no failure"
    assert "restarted (attempt 2) from checkpoint-3" in output
    assert steps_of(driver) == list(range(1, STEPS + 1)), "no step was done twice"
    assert_same(outcome(driver), quiet)


def test_a_driver_that_is_killed_costs_no_step_because_its_workers_save_before_they_leave(
    nodes: Raylets, quiet: Outcome
) -> None:
    killed = nodes.drive("driver", "step-7", "slow")
    killed.halted("step-7")
    killed.process.kill()
    killed.process.wait()
    killed.go_on("step-7")
    resubmitted = nodes.drive("driver", "slow")
    assert "from checkpoint-" in resubmitted.finish()
    assert steps_of(resubmitted) == list(range(1, STEPS + 1)), "no step was done twice"
    assert_same(outcome(resubmitted), quiet)


@pytest.mark.skipif(not HAS_REDIS, reason="no redis-server")
def test_a_control_store_that_dies_and_comes_back_costs_nothing(nodes: Raylets, quiet: Outcome) -> None:
    driver = nodes.drive("store", "step-3", "step-8", "slow")
    driver.halted("step-3")
    nodes.kill_gcs()
    driver.go_on("step-3")
    driver.halted("step-8")
    nodes.start_gcs()
    driver.go_on("step-8")
    assert "restart" not in driver.finish()
    assert steps_of(driver) == list(range(1, STEPS + 1))
    assert_same(outcome(driver), quiet)


def test_a_control_store_that_dies_for_good_ends_the_script_and_another_cluster_goes_on(
    nodes: Raylets, quiet: Outcome, tmp_path: Path
) -> None:
    run = str(tmp_path / "run")
    with raylets(2, has_redis=False, RAY_gcs_rpc_server_reconnect_timeout_s="5") as lost:
        driver = lost.drive(run, "step-7", "slow")
        driver.halted("step-7")
        lost.kill_gcs()
        driver.go_on("step-7")
        assert "Failed to connect to GCS within 5 seconds" in driver.finish(code=1)
    resubmitted = nodes.drive(run, "slow")
    assert "from checkpoint-" in resubmitted.finish()
    assert_same(outcome(resubmitted), quiet)
