from __future__ import annotations

import pytest

from raytrainer.arguments.ray_options import RayOptions
from raytrainer.driver.capacity import check_capacity, fair_share, plan_workers, room_for
from raytrainer.errors import ConfigurationError


def node(cpu=2, gpu=0, alive=True, **more):
    resources = {"CPU": cpu, "memory": 1e9, "node:1.2.3.4": 1.0, **more}
    if gpu:
        resources["GPU"] = gpu
    return {"Alive": alive, "Resources": resources, "NodeManagerAddress": "1.2.3.4", "Labels": {"zone": "a"}}


def make_args(**changes):
    values = {
        "num_workers": None,
        "use_gpu": None,
        "use_cpu": False,
        "resources_per_worker": None,
        "placement_strategy": "PACK",
        "accelerator_type": None,
        "label_selector": None,
        "cluster_timeout_s": 5.0,
        "placement_timeout_s": 60.0,
        "elastic_timeout_s": 20.0,
    }
    args = RayOptions()
    vars(args).update(values | changes)
    return args


@pytest.mark.parametrize(
    ("num_workers", "cores", "share"),
    [
        (1, [2], 2),
        (2, [2], 1),
        (3, [2], 1),
        (2, [8], 4),
        (3, [8], 2),
        (2, [4, 4], 4),
        (3, [4, 2], 2),
        (1, [], 1),
    ],
)
def test_cores_are_handed_out(num_workers, cores, share):
    assert fair_share(num_workers, cores) == share


def test_one_worker_per_gpu_by_default():
    plan = plan_workers(make_args(), [node(gpu=4), node(gpu=2), node(gpu=8, alive=False)])
    assert (plan.num_workers, plan.use_gpu, plan.resources_per_worker) == (6, True, {"GPU": 1.0, "CPU": 1.0})


def test_one_worker_on_cpu_by_default():
    plan = plan_workers(make_args(), [node(cpu=4)])
    assert (plan.num_workers, plan.use_gpu, plan.resources_per_worker) == (1, False, {"CPU": 4.0})
    assert plan.num_threads == 4


def test_use_cpu_leaves_the_gpus_alone():
    assert plan_workers(make_args(use_cpu=True), [node(gpu=4)]).use_gpu is False


def test_room_depends_on_how_workers_are_placed():
    nodes = [node(cpu=4), node(cpu=2)]
    assert room_for({"CPU": 2.0}, nodes) == 3
    assert room_for({"CPU": 2.0}, nodes, strategy="STRICT_PACK") == 2
    assert room_for({"CPU": 2.0}, nodes, strategy="STRICT_SPREAD") == 2
    assert room_for({"CPU": 2.0}, nodes, labels={"zone": "b"}) == 0


def check(args, nodes, **options):
    check_capacity(args, plan_workers(args, nodes), nodes=lambda: nodes, **{"may_grow": False, **options})


def test_more_workers_than_the_cluster_can_give_are_refused_with_what_is_there():
    with pytest.raises(
        ConfigurationError, match=r"64 workers with 1 CPU each .* room for 2\. It has 1\.2\.3\.4: 2 CPU\."
    ):
        check(make_args(num_workers=64), [node()])


def test_gpus_where_there_are_none_are_refused():
    with pytest.raises(ConfigurationError, match="There is no GPU: leave use_gpu out"):
        check(make_args(num_workers=2, use_gpu=True), [node()])


def test_accelerator_that_is_not_there_is_refused():
    with pytest.raises(ConfigurationError, match="with accelerator A100"):
        check(make_args(num_workers=1, accelerator_type="A100"), [node(gpu=1)])


def test_cluster_that_may_grow_gets_time_and_is_asked():
    nodes, asked = [node()], []

    def sleep(_):
        nodes.append(node())

    check(
        make_args(num_workers=4, resources_per_worker={"CPU": 1}),
        nodes,
        may_grow=True,
        ask_for=asked.append,
        sleep=sleep,
    )
    assert asked == [[{"CPU": 1.0}] * 4]


def test_waiting_for_a_cluster_ends():
    now = iter(range(100))
    with pytest.raises(ConfigurationError, match="after waiting 5 s for it to grow"):
        check(
            make_args(num_workers=4),
            [node()],
            may_grow=True,
            sleep=lambda _: None,
            clock=lambda: float(next(now)),
        )


def test_time_in_which_nodes_are_started_does_not_count():
    now = iter(range(100))
    growing = iter([True] * 20)
    with pytest.raises(ConfigurationError, match="after waiting 5 s for it to grow"):
        check(
            make_args(num_workers=4),
            [node()],
            may_grow=True,
            is_growing=lambda: next(growing, False),
            sleep=lambda _: None,
            clock=lambda: float(next(now)),
        )
    assert next(growing, None) is None
    assert next(now) > 40
