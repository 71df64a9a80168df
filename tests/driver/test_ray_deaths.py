from __future__ import annotations

import pytest
import ray.exceptions

from raytrainer.driver.ray_deaths import KILLED, cause_in, deaths_in


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
    assert cause_in(text) == KILLED


HEAD = (
    "The actor died unexpectedly before finishing this task.\n\tclass_name: RayTrainWorker\n\tactor_id: 6b01\n"
    "\tpid: 77\n\tnamespace: a\n\tip: 10.0.0.2\nThe actor died because its node has died. Node Id: 7aa86eceeed8"
)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (
            f"{HEAD}\n\tthe actor's node was terminated unexpectedly: health check failed due to missing too many "
            "heartbeats",
            "its node 10.0.0.2 (7aa86e) is lost: Ray hears nothing from it any more",
        ),
        (
            f"{HEAD}\n\tthe actor's node was terminated expectedly: received SIGTERM",
            "its node 10.0.0.2 (7aa86e) was shut down: received SIGTERM",
        ),
        (HEAD, "its node 10.0.0.2 (7aa86e) died"),
        (
            "Task failed because the node it was running on is dead or unavailable. Node IP: 10.0.0.3, node ID: "
            "c716a6783f. This can happen if the node was preempted, had a hardware failure",
            "its node 10.0.0.3 (c716a6) is lost: Ray hears nothing from it any more",
        ),
        (
            "The actor 6b01 is unavailable: The actor is temporarily unavailable: RPC error: RpcError: RPC Error "
            "message: failed to connect to all addresses; last error: UNKNOWN: ipv4:10.0.0.4:35555: Failed to connect "
            "to remote host: Connection refused; RPC Error details:  rpc_code: 14. The task may or may not have been "
            "executed on the actor.",
            "Ray cannot reach its process on 10.0.0.4: the process, its node or the network between has failed",
        ),
    ],
)
def test_the_death_of_a_node_is_told_with_the_node_and_without_words_of_rpc(text: str, cause: str):
    assert cause_in(text) == cause
