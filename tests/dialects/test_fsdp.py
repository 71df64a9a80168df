"""``fsdp`` and ``fsdp_config`` in the spelling of both versions have one meaning, and errors list valid values."""

from __future__ import annotations

import json

import pytest

from raytrainer import TrainingArguments
from raytrainer.dialects.fsdp import ShardingOptions, canonical, read_sharding
from raytrainer.errors import ConfigurationError


@pytest.mark.parametrize(
    ("fsdp", "config", "expected"),
    [
        (True, None, ShardingOptions()),
        ("full_shard auto_wrap", None, ShardingOptions()),
        (["full_shard", "offload"], None, ShardingOptions(cpu_offload=True)),
        ("shard_grad_op", None, ShardingOptions(reshard_after_forward=False)),
        ("hybrid_shard", None, ShardingOptions(is_hybrid=True)),
        ("hybrid_shard_zero2", None, ShardingOptions(is_hybrid=True, reshard_after_forward=False)),
        (True, {"sharding_strategy": 2}, ShardingOptions(reshard_after_forward=False)),
        (True, {"fsdp_sharding_strategy": "4"}, ShardingOptions(is_hybrid=True)),
        (True, {"fsdp_sharding_strategy": "FULL_SHARD"}, ShardingOptions()),
        (True, {"reshard_after_forward": False}, ShardingOptions(reshard_after_forward=False)),
        (True, {"reshard_after_forward": "shard_grad_op"}, ShardingOptions(reshard_after_forward=False)),
        (True, {"hybrid_shard_size": 2}, ShardingOptions(is_hybrid=True, hybrid_shard_size=2)),
        (
            "full_shard auto_wrap",
            {"fsdp_transformer_layer_cls_to_wrap": "A, B", "fsdp_backward_prefetch": "BACKWARD_PRE"},
            ShardingOptions(layer_classes=("A", "B")),
        ),
        (True, {"min_num_params": 2000}, ShardingOptions(wrap="size", min_num_params=2000)),
        (True, {"fsdp_auto_wrap_policy": "NO_WRAP"}, ShardingOptions(wrap="none")),
        (
            True,
            {"activation_checkpointing": "true", "fsdp_offload_params": True, "use_orig_params": True},
            ShardingOptions(activation_checkpointing=True, cpu_offload=True),
        ),
        (
            True,
            {"cpu_ram_efficient_loading": True, "sync_module_states": True},
            ShardingOptions(loads_on_meta=True),
        ),
    ],
)
def test_both_vocabularies_are_read(fsdp, config, expected):
    assert read_sharding(fsdp, config) == expected
    assert read_sharding(True, canonical(expected)) == expected, "what was read can be written and read again"


def test_arguments_keep_one_meaning_over_a_round_trip(tmp_path):
    args = TrainingArguments(
        output_dir=str(tmp_path), fsdp="shard_grad_op", fsdp_config={"activation_checkpointing": True}
    )
    assert args.fsdp is True
    assert args.activation_checkpointing is True
    again = TrainingArguments(output_dir=str(tmp_path), fsdp=args.fsdp, fsdp_config=args.fsdp_config)
    assert again.sharding == args.sharding
    assert not again.sharding.reshard_after_forward


def test_a_json_file_is_read(tmp_path):
    path = tmp_path / "fsdp.json"
    path.write_text(json.dumps({"reshard_after_forward": False}))
    assert read_sharding(True, str(path)) == ShardingOptions(reshard_after_forward=False)


@pytest.mark.parametrize("nothing", [None, False, "", [], "false"])
def test_nothing_asked_is_nothing_sharded(nothing):
    assert read_sharding(nothing, None) is None


@pytest.mark.parametrize(
    ("fsdp", "config", "words"),
    [
        ("ful_shard", None, "Did you mean 'full_shard'"),
        ("no_shard", None, "Leave fsdp out"),
        (True, {"sharding_strategy": 3}, "Leave fsdp out"),
        (True, {"sharding_strategy": 9}, "9 does not exist"),
        (True, {"reshard_after_foward": True}, "Did you mean 'reshard_after_forward'"),
        (True, {"reshard_after_forward": "perhaps"}, "does not exist"),
        (True, {"use_orig_params": False}, "flattened parameters"),
        (True, {"auto_wrap_policy": "SIZE"}, "SIZE_BASED_WRAP"),
        (True, {"min_num_params": 5, "transformer_layer_cls_to_wrap": "A"}, "Keep one"),
        (True, {"min_num_params": -5}, "at least 0"),
        (True, {"hybrid_shard_size": 0}, "at least 1"),
        (True, {"state_dict_type": "LOCAL_STATE_DICT"}, "a different number of workers"),
        (True, {"cpu_offload": "maybe"}, "neither true nor false"),
        (True, {"xla": True}, "not available"),
        (True, 3, "path of a JSON file"),
        (True, "/nowhere/fsdp.json", "cannot be read"),
        (True, '{"reshard_after_forward": tru}', "line 1, column 27"),
        (None, {"reshard_after_forward": True}, "without fsdp"),
    ],
)
def test_what_cannot_be_is_refused_in_words(fsdp, config, words):
    with pytest.raises(ConfigurationError, match=words):
        read_sharding(fsdp, config)
