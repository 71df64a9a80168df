from __future__ import annotations

import ray.exceptions

from raytrainer.driver.ray_deaths import cause_in, deaths_in


def failed(**failures):
    error = type("WorkerGroupError", (Exception,), {})("x")
    error.worker_failures = {int(rank[1:]): one for rank, one in failures.items()}
    return error


def test_a_worker_that_rays_memory_monitor_killed_is_a_death_with_that_cause():
    text = (
        "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.1, ID: ab) was "
        "15.3GB used / 16.0GB limit (0.956)\nRefer to the documentation on how to address the out of memory issue"
    )
    deaths = deaths_in(
        failed(r0=RuntimeError("rank 0 failed with RuntimeError"), r1=ray.exceptions.OutOfMemoryError(text))
    )
    assert list(deaths.causes) == [1]
    assert deaths.causes[1].startswith("2 worker(s) were killed due to the node running low on memory.")
    assert "documentation" not in deaths.causes[1]


def test_what_ray_supposes_is_no_cause():
    text = (
        "The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR Worker exit detail: "
        "Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the "
        "process was killed by the OOM killer due to high memory usage"
    )
    assert cause_in(text) == "Worker unexpectedly exits with a connection error code 2. End of file."
