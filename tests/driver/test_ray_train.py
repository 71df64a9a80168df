"""What a worker's process starts with."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from raytrainer.driver.capacity import Allocation
from raytrainer.driver.ray_train import worker_environment

RESERVED = Allocation(num_workers=2, use_gpu=False, resources_per_worker={"CPU": 4.0})
SHARED = replace(RESERVED, resources_per_worker={"node:1.2.3.4": 0.001}, shared_cores=4)


@pytest.mark.parametrize(
    ("allocation", "here", "threads"),
    [
        (RESERVED, {"OMP_NUM_THREADS": "8"}, None),
        (SHARED, {"OMP_NUM_THREADS": "8"}, "4"),
        (SHARED, {"OMP_NUM_THREADS": "1"}, "1"),
        (SHARED, {}, "4"),
    ],
    ids=["Ray decides", "those of the actor are shared", "the user decides", "nothing is set"],
)
def test_threads_of_workers_that_reserve_nothing_are_told(allocation, here, threads):
    args: Any = SimpleNamespace(full_determinism=False)
    assert worker_environment(args, allocation, here).get("OMP_NUM_THREADS") == threads


def test_deterministic_workers_have_the_variables_of_cuda():
    args: Any = SimpleNamespace(full_determinism=True)
    assert worker_environment(args, RESERVED, {})["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"
