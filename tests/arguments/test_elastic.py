from __future__ import annotations

import pytest

from raytrainer.arguments.elastic import check_fixed
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError
from raytrainer.preflight.optimizer_choice import check_choice


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"deepspeed": {"zero_optimization": {"stage": 2}}}, "deepspeed"),
        ({"fsdp": "hybrid_shard", "fsdp_config": {"hybrid_shard_size": 2}}, "hybrid sharding"),
        (
            {"accelerator_config": {"split_batches": True}, "per_device_train_batch_size": 4},
            "split_batches=True",
        ),
        ({"accelerator_config": {"dispatch_batches": True}}, "dispatch_batches=True"),
        ({"train_sampling_strategy": "batch_rebalance"}, "train_sampling_strategy='batch_rebalance'"),
        ({"average_tokens_across_devices": False}, "average_tokens_across_devices=False"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size=True"),
        ({"save_only_model": True}, "save_only_model=True"),
    ],
)
def test_what_depends_on_the_number_of_workers_is_refused_when_it_may_change(asked, named):
    TrainingArguments(num_workers=4, **asked)
    with pytest.raises(ConfigurationError, match=rf"num_workers=\(1, 4\).*{named}.*num_workers=4"):
        TrainingArguments(num_workers=(1, 4), **asked)


def test_change_after_construction_is_checked_too():
    args = TrainingArguments(num_workers=2, save_only_model=True)
    args.num_workers = [1, 2]
    with pytest.raises(ConfigurationError, match="save_only_model"):
        args.check()


@pytest.mark.parametrize("asked", [{}, {"fsdp": True}, {"fsdp": "shard_grad_op"}])
def test_replicated_and_sharded_models_may_change_their_number_of_workers(asked):
    assert TrainingArguments(num_workers=(1, 4), **asked).is_elastic


@pytest.mark.parametrize(
    ("optim", "options"),
    [("lomo", {}), ("galore_adamw", {"optim_target_modules": "all-linear", "max_grad_norm": 0})],
)
def test_optimizers_that_reduce_gradients_themselves_are_refused(optim, options):
    check_choice(TrainingArguments(num_workers=2, optim=optim, **options), None)
    with pytest.raises(ConfigurationError, match=rf"num_workers=\(1, 2\).*optim='{optim}'"):
        check_choice(TrainingArguments(num_workers=(1, 2), optim=optim, **options), None)


def test_optimizer_whose_gradients_are_clipped_may_change_its_number_of_workers():
    targets = {"optim_target_modules": "all-linear"}
    check_choice(TrainingArguments(num_workers=(1, 2), optim="galore_adamw", **targets), None)


def test_where_only_a_fixed_number_works_a_pair_is_refused_with_the_reason():
    check_fixed(TrainingArguments(num_workers=2), "a sweep", "rooms are fixed")
    with pytest.raises(ConfigurationError, match=r"in a sweep rooms are fixed.*num_workers=3"):
        check_fixed(TrainingArguments(num_workers=(1, 3)), "a sweep", "rooms are fixed")
