"""Ray's options as flat fields, and Ray's own objects folded into them."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from raytrainer import ConfigurationError, TrainingArguments
from raytrainer.arguments.ray_objects import merge_ray_objects


def scaling(**values: object) -> SimpleNamespace:
    """A ScalingConfig as Ray makes it."""
    plain = {
        "num_workers": 1,
        "use_gpu": False,
        "resources_per_worker": None,
        "placement_strategy": "PACK",
        "accelerator_type": None,
        "label_selector": None,
        "trainer_resources": None,
        "use_tpu": False,
        "topology": None,
        "elastic_resize_monitor_interval_s": 60.0,
    }
    return SimpleNamespace(**{**plain, **values})


def run(failure: dict | None = None, checkpoint: dict | None = None, **values: object) -> SimpleNamespace:
    """A RunConfig as Ray makes it: names and defaults filled in."""
    plain = {
        "name": "ray_train_run-2026-01-01_00-00-00",
        "storage_path": os.path.expanduser("~/ray_results"),
        "storage_filesystem": None,
        "failure_config": SimpleNamespace(
            **{
                "max_failures": 0,
                "controller_failure_limit": -1,
                "max_preemption_failures": -1,
                **(failure or {}),
            }
        ),
        "checkpoint_config": SimpleNamespace(
            **{"num_to_keep": None, "checkpoint_score_attribute": None, "checkpoint_score_order": "max"}
            | (checkpoint or {})
        ),
        "callbacks": [],
        "worker_runtime_env": {},
        "logging_config": SimpleNamespace(log_level="INFO"),
    }
    return SimpleNamespace(**{**plain, **values})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_workers", -1),
        ("num_workers", 1.5),
        ("num_workers", True),
        ("num_workers", "many"),
        ("max_failures", -2),
        ("max_failures", None),
        ("resources_per_worker", "{not json"),
        ("resources_per_worker", "[1, 2]"),
        ("resources_per_worker", {"CPU": -1}),
        ("resources_per_worker", {"CPU": "2"}),
        ("resources_per_worker", {"gpu": 1}),
        ("label_selector", 3),
        ("placement_strategy", "SCATTER"),
        ("elastic_timeout_s", -1),
        ("worker_idle_timeout_s", -1),
        ("hang_warning_s", None),
        ("hang_timeout_s", 0),
        ("hang_timeout_s", "soon"),
        ("cluster_timeout_s", float("nan")),
        ("sigterm_exit_code", 256),
        ("sigterm_exit_code", 1.5),
    ],
)
def test_value_that_cannot_be_right_is_refused_by_name(field, value):
    with pytest.raises(ConfigurationError, match=field):
        TrainingArguments(**{field: value})


@pytest.mark.parametrize("given", [(1, 4), [1, 4], "1,4", "(1, 4)", "[1, 4]", " 1, 4 "])
def test_pair_is_the_least_and_the_most(given):
    args = TrainingArguments(num_workers=given)
    assert (args.num_workers, args.is_elastic) == ((1, 4), True)
    assert (args.min_workers, args.max_workers, args.world_size) == (1, 4, 4)


@pytest.mark.parametrize(
    ("given", "number", "world_size"), [(3, 3, 3), ("3", 3, 3), (None, None, 1), (0, 0, 1)]
)
def test_one_number_is_both_bounds(given, number, world_size):
    args = TrainingArguments(num_workers=given)
    assert (args.num_workers, args.is_elastic) == (number, False)
    assert (args.min_workers, args.max_workers, args.world_size) == (number, number, world_size)


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        ((0, 2), "at least 0 workers are none"),
        ((3, 2), "3 is more than 2"),
        ((1, 2, 3), "not a pair"),
        ((1,), "not a pair"),
        ((1, 2.5), "not a pair"),
        ((True, 2), "not a pair"),
        ("1,many", "not a whole number"),
        ("1:4", "not a whole number"),
    ],
)
def test_pair_that_cannot_be_right_is_refused_with_what_to_give(given, wrong):
    with pytest.raises(ConfigurationError, match=rf"num_workers=.*{wrong}.*num_workers=\(1, 4\)"):
        TrainingArguments(num_workers=given)


@pytest.mark.parametrize(("number", "is_allowed"), [(0, False), (1, False), (2, True), (4, True), (5, False)])
def test_pair_allows_what_lies_between(number, is_allowed):
    assert TrainingArguments(num_workers=(2, 4)).allows_workers(number) is is_allowed


def test_json_becomes_a_dict():
    args = TrainingArguments(resources_per_worker='{"CPU": 2}', label_selector='{"zone": "a"}')
    assert (args.resources_per_worker, args.label_selector) == ({"CPU": 2}, {"zone": "a"})


def test_placement_strategy_may_be_small():
    assert TrainingArguments(placement_strategy="spread").placement_strategy == "SPREAD"


def test_scaling_config_fills_fields_at_their_default():
    args = TrainingArguments()
    merge_ray_objects(
        args,
        scaling(
            num_workers=4,
            use_gpu=True,
            resources_per_worker={"CPU": 2},
            placement_strategy="SPREAD",
            accelerator_type="A100",
            label_selector={"zone": "a"},
        ),
    )
    assert (args.num_workers, args.use_gpu, args.resources_per_worker) == (4, True, {"CPU": 2})
    assert (args.placement_strategy, args.accelerator_type, args.label_selector) == (
        "SPREAD",
        "A100",
        {"zone": "a"},
    )


def test_scaling_config_may_be_elastic():
    args = TrainingArguments()
    merge_ray_objects(args, scaling(num_workers=(1, 4)))
    assert (args.num_workers, args.is_elastic) == ((1, 4), True)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"num_workers": 4}, {"num_workers": 2}),
        ({"num_workers": 4}, {}),
        ({"num_workers": 4, "use_gpu": True}, {"num_workers": 4}),
        ({"resources_per_worker": {"CPU": 1}}, {"resources_per_worker": {"CPU": 2}}),
        ({"placement_strategy": "SPREAD"}, {"placement_strategy": "STRICT_SPREAD"}),
        ({"accelerator_type": "A100"}, {"accelerator_type": "H100"}),
        ({"label_selector": {"zone": "a"}}, {"label_selector": {"zone": "b"}}),
    ],
)
def test_saying_it_twice_differently_names_both_values(ours, theirs):
    with pytest.raises(ConfigurationError, match="must agree") as caught:
        merge_ray_objects(TrainingArguments(**ours), scaling(**theirs))
    name = list(ours)[-1]
    assert f"{name}={ours[name]!r}" in str(caught.value)
    assert f"scaling_config says {name}=" in str(caught.value)


def test_saying_it_twice_alike_is_fine():
    args = TrainingArguments(num_workers=2, use_gpu=True)
    merge_ray_objects(args, scaling(num_workers=2, use_gpu=True))
    assert args.num_workers == 2


@pytest.mark.parametrize(
    "asking",
    [
        {"use_tpu": True},
        {"topology": "2x2"},
        {"trainer_resources": {"CPU": 1}},
        {"elastic_resize_monitor_interval_s": 5.0},
        {"label_selector": [{"zone": "a"}]},
    ],
    ids=lambda value: next(iter(value)),
)
def test_scaling_that_is_not_honoured_is_refused(asking):
    with pytest.raises(ConfigurationError, match=next(iter(asking))):
        merge_ray_objects(TrainingArguments(), scaling(**asking))


def test_run_config_that_says_nothing_changes_nothing():
    args = TrainingArguments()
    merge_ray_objects(args, None, run())
    assert args == TrainingArguments()


def test_run_config_limits_failures():
    args = TrainingArguments()
    merge_ray_objects(args, None, run({"max_failures": 7}))
    assert args.max_failures == 7


def test_max_failures_twice_differently_is_an_error():
    with pytest.raises(ConfigurationError, match=r"max_failures=5.*max_failures=7"):
        merge_ray_objects(TrainingArguments(max_failures=5), None, run({"max_failures": 7}))


@pytest.mark.parametrize(
    ("storage", "name", "expected"),
    [("/data", "run", "/data/run"), ("/data/", "run", "/data/run")],
)
def test_run_config_sets_a_default_output_dir(storage, name, expected):
    args = TrainingArguments()
    merge_ray_objects(args, None, run(storage_path=storage, name=name))
    assert args.output_dir == expected


def test_name_alone_lies_under_rays_storage():
    args = TrainingArguments()
    merge_ray_objects(args, None, run(name="mine"))
    assert args.output_dir == os.path.expanduser("~/ray_results/mine")


@pytest.mark.parametrize(
    ("output_dir", "theirs"),
    [
        ("/data/run", {"storage_path": "/data", "name": "run"}),
        ("/data/run", {"storage_path": "/data"}),
        ("~/ray_results/mine", {"name": "mine"}),
    ],
)
def test_run_config_that_agrees_with_output_dir_is_fine(output_dir, theirs):
    args = TrainingArguments(output_dir=output_dir)
    merge_ray_objects(args, None, run(**theirs))
    assert args.output_dir == os.path.expanduser(output_dir)


@pytest.mark.parametrize(
    "theirs",
    [
        {"storage_path": "/other", "name": "run"},
        {"storage_path": "s3://bucket", "name": "run"},
        {"name": "x"},
    ],
)
def test_run_config_that_differs_from_output_dir_is_an_error(theirs):
    with pytest.raises(ConfigurationError, match="output_dir='/data/run'"):
        merge_ray_objects(TrainingArguments(output_dir="/data/run"), None, run(**theirs))


@pytest.mark.parametrize(
    ("config", "where"),
    [
        (run(storage_filesystem=object()), "run_config.storage_filesystem"),
        (run(callbacks=[object()]), "run_config.callbacks"),
        (run(worker_runtime_env={"pip": ["x"]}), "run_config.worker_runtime_env"),
        (run(logging_config=SimpleNamespace(log_level="DEBUG")), "run_config.logging_config.log_level"),
        (run(checkpoint={"num_to_keep": 2}), "run_config.checkpoint_config.num_to_keep"),
        (
            run(checkpoint={"checkpoint_score_attribute": "x"}),
            "run_config.checkpoint_config.checkpoint_score_attribute",
        ),
        (run({"controller_failure_limit": 3}), "run_config.failure_config.controller_failure_limit"),
        (run({"max_preemption_failures": 3}), "run_config.failure_config.max_preemption_failures"),
        (run({"preemption_grace_s": 3.0}), "run_config.failure_config.preemption_grace_s"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_run_config_that_is_not_supported_is_refused_with_advice(config, where):
    with pytest.raises(ConfigurationError, match=f"{where}=.* is not supported by"):
        merge_ray_objects(TrainingArguments(), None, config)


@pytest.mark.parametrize("pair", [({"num_workers": 2}, None), (None, {"name": "x"})])
def test_a_dict_is_not_a_config(pair):
    with pytest.raises(ConfigurationError, match="got a dict"):
        merge_ray_objects(TrainingArguments(), *pair)


def test_use_cpu_and_gpus_from_scaling_config_contradict():
    args = TrainingArguments(use_cpu=True)
    merge_ray_objects(args, scaling(use_gpu=True))
    with pytest.raises(ConfigurationError, match="use_cpu=True and use_gpu=True"):
        args.check()


@pytest.mark.ray
def test_rays_real_objects_are_read():
    # no cluster is started: only the classes are used, so that a change of their attributes is noticed
    train = pytest.importorskip("ray.train")
    args = TrainingArguments()
    merge_ray_objects(
        args,
        train.ScalingConfig(num_workers=3, resources_per_worker={"CPU": 1}),
        train.RunConfig(name="n", storage_path="/tmp/s", failure_config=train.FailureConfig(max_failures=2)),
    )
    assert (args.num_workers, args.output_dir, args.max_failures) == (3, "/tmp/s/n", 2)
    again = TrainingArguments()
    merge_ray_objects(again, None, train.RunConfig())
    assert again == TrainingArguments()
