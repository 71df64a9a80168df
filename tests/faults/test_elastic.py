"""Runs whose number of workers changes: the loss curve is that of a run that nothing disturbs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from tests.faults.elastic_run import EPOCHS, ROWS
from tests.faults.raylets import Driver, Raylets, raylets

pytestmark = [pytest.mark.faults, pytest.mark.ray, pytest.mark.timeout(400)]

MODULE = "tests.faults.elastic_run"
STEPS = 24


@pytest.fixture(scope="module")
def nodes() -> Iterator[Raylets]:
    """A head that forbids workers, and a node for each of two workers."""
    with raylets(2) as found:
        yield found


def logs_of(driver: Driver) -> list[dict[str, float]]:
    history: list[dict[str, float]] = json.loads((driver.directory / "result.json").read_text())
    return [log for log in history if "loss" in log]


@pytest.fixture(scope="module")
def quiet(nodes: Raylets) -> list[float]:
    """The losses on two workers."""
    driver = nodes.drive("quiet", "2,2", module=MODULE)
    output = driver.finish()
    assert "resized" not in output
    return [log["loss"] for log in logs_of(driver)]


@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
def test_run_that_loses_a_node_and_gets_one_has_the_losses_of_one_that_is_left_alone(
    nodes: Raylets, quiet: list[float], mode: str
) -> None:
    directory = nodes.directory / mode
    directory.mkdir()
    for step in (9, 15, 18):
        (directory / f"hold-{step}").touch()
    driver = nodes.drive(mode, "1,2", mode, module=MODULE)

    second = directory / "step-9-of-2-rank-1"
    driver.wait_until(second.exists, "no second worker")
    nodes.kill(second.read_text())
    (directory / "hold-9").unlink()
    driver.wait_until((directory / "step-15-of-1-rank-0").exists, "it does not go on with one worker")
    nodes.add()
    (directory / "hold-15").unlink()
    driver.wait_until(lambda: "there is room for 2 workers" in driver.output, "it does not see the new node")
    (directory / "hold-18").unlink()
    output = driver.finish()

    assert re.findall(r"resized \d -> \d workers at step \d+", output) == [
        "resized 2 -> 1 workers at step 6",
        "resized 1 -> 2 workers at step 18",
    ]
    assert "1 to 2" in output, "the table of the settings"
    assert "restart 1 of at most 3" in output
    assert "restart 2" not in output, "a planned change is no failure"
    logs = logs_of(driver)
    assert [log["num_workers"] for log in logs] == [2] * 6 + [1] * 12 + [2] * 6
    assert [log["step"] for log in logs] == list(range(1, STEPS + 1))
    assert [log["loss"] for log in logs] == pytest.approx(quiet, rel=1e-5)
    for epoch in range(EPOCHS):
        assert f"sample ledger: epoch {epoch}: each of {ROWS} samples was used once" in output
