"""What a sweep leaves of itself in a running Ray: nothing."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import ray
from ray.util import placement_group_table

from tests.leftovers import members
from tests.ray_cluster import group_directories

OF_RAY = ("IDLE", "_AutoscalingCoordinator", "DashboardAgent", "RuntimeEnvAgent")
"""Processes of the cluster itself, which stay."""


def assert_nothing_is_left(ray_directory: Path) -> None:
    """No placement group, no CPU that is taken, no process of a trial or worker, no directory of a worker group."""
    states = {group["state"] for group in placement_group_table().values()}
    assert states <= {"REMOVED"}, "placement groups are left"
    wait_for_none(lambda: [ray.cluster_resources()["CPU"] - ray.available_resources().get("CPU", 0)])
    wait_for_none(lambda: busy_processes(ray_directory))
    assert group_directories() == [], "directories of worker groups are left"


def busy_processes(directory: Path) -> list[str]:
    """Processes of actors and tasks."""
    found = [command.removeprefix("ray::") for command in members(directory) if command.startswith("ray::")]
    return [one for one in found if not one.startswith(OF_RAY)]


def wait_for_none(find: Callable[[], list], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while any(found := find()):
        assert time.monotonic() < deadline, f"left: {found}"
        time.sleep(0.1)
