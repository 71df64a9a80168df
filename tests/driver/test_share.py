"""The default share of a worker beside others, by fake nodes."""

from __future__ import annotations

import pytest

from raytrainer.driver.capacity import plan_workers
from raytrainer.driver.share import room_without, share_beside_others, share_of_own
from tests.driver.test_capacity import make_args, node


def beside(args, nodes, free):
    return share_beside_others(args, plan_workers(args, nodes), free)


@pytest.mark.parametrize(
    ("num_workers", "free_cores", "each"),
    [(1, [8], 8), (1, [3], 3), (2, [3], 1), (2, [4, 2], 2), (2, [1], 1), (1, [0], 1)],
)
def test_default_share_is_what_is_free_but_at_least_one_core(num_workers, free_cores, each):
    plan = beside(
        make_args(num_workers=num_workers), [node(cpu=8)], [node(cpu=cores) for cores in free_cores]
    )
    assert (plan.num_workers, plan.resources_per_worker) == (num_workers, {"CPU": each})


def test_what_the_user_named_stays():
    args = make_args(num_workers=2, resources_per_worker={"CPU": 4})
    assert beside(args, [node(cpu=8)], [node(cpu=1)]).resources_per_worker == {"CPU": 4.0}


def test_strategy_counts_for_what_is_free():
    args = make_args(num_workers=2, placement_strategy="STRICT_SPREAD")
    plan = beside(args, [node(cpu=4), node(cpu=4)], [node(cpu=4), node(cpu=2)])
    assert plan.resources_per_worker == {"CPU": 2.0}


@pytest.mark.parametrize(
    ("num_workers", "free_gpus", "expected"), [(None, 3, 3), (None, 0, 8), (8, 3, 8), (2, 3, 2)]
)
def test_workers_per_gpu_are_those_that_are_free_unless_their_number_was_named(
    num_workers, free_gpus, expected
):
    plan = beside(make_args(num_workers=num_workers), [node(cpu=16, gpu=8)], [node(cpu=16, gpu=free_gpus)])
    assert plan.num_workers == expected
    assert plan.resources_per_worker == {"GPU": 1.0, "CPU": 1.0}


def own(args, free, reserved):
    whole = plan_workers(args, [node(cpu=4)])
    return share_of_own(args, whole, [node(cpu=free)], reserved, "node:1.2.3.4")


def test_workers_of_an_actor_use_its_cores_when_none_are_free():
    plan = own(make_args(num_workers=2), 1, {"CPU": 4.0})
    assert plan is not None
    assert plan.resources_per_worker == {"node:1.2.3.4": 0.001}
    assert (plan.num_workers, plan.shared_cores, plan.num_threads) == (2, 2, 2)


@pytest.mark.parametrize(
    ("args", "free", "reserved"),
    [
        (make_args(num_workers=2), 2, {"CPU": 2.0}),
        (make_args(num_workers=2), 0, {}),
        (make_args(num_workers=1, resources_per_worker={"CPU": 1}), 0, {"CPU": 2.0}),
        (make_args(num_workers=1, use_gpu=True), 0, {"CPU": 2.0, "GPU": 1.0}),
    ],
    ids=["room is free", "nothing reserved", "named resources", "GPUs"],
)
def test_workers_of_an_actor_have_their_own_where_they_can_or_must(args, free, reserved):
    assert own(args, free, reserved) is None


def test_room_without_what_the_actor_keeps():
    args = make_args(num_workers=1, resources_per_worker={"CPU": 1})
    nodes = [node(cpu=1) | {"NodeID": "a"}, node(cpu=2) | {"NodeID": "b"}]
    whole = plan_workers(args, nodes)
    assert room_without(args, whole, nodes, {"CPU": 1.0}, "a") == 2
    assert room_without(args, whole, nodes[:1], {"CPU": 1.0}, "a") == 0
