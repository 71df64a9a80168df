"""Accelerate's config files and launcher environment, converted to this package's arguments."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytrainer import TrainingArguments
from raytrainer.dialects.accelerate import translate
from raytrainer.dialects.fsdp import ShardingOptions
from raytrainer.errors import ConfigurationError

FSDP_FILE = """
compute_environment: LOCAL_MACHINE
debug: false
distributed_type: FSDP
downcast_bf16: 'no'
enable_cpu_affinity: false
fsdp_config:
  fsdp_activation_checkpointing: false
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_backward_prefetch: BACKWARD_PRE
  fsdp_cpu_ram_efficient_loading: true
  fsdp_forward_prefetch: false
  fsdp_offload_params: false
  fsdp_sharding_strategy: SHARD_GRAD_OP
  fsdp_state_dict_type: SHARDED_STATE_DICT
  fsdp_sync_module_states: true
  fsdp_transformer_layer_cls_to_wrap: BertLayer
  fsdp_use_orig_params: true
machine_rank: 0
main_training_function: main
mixed_precision: bf16
num_machines: 1
num_processes: 2
rdzv_backend: static
same_network: true
tpu_env: []
tpu_use_cluster: false
tpu_use_sudo: false
use_cpu: false
"""


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "config_file.yaml"
    path.write_text(text)
    return str(path)


def test_a_file_that_accelerate_config_wrote_becomes_arguments(tmp_path):
    args = TrainingArguments(output_dir=str(tmp_path), accelerate_config=write(tmp_path, FSDP_FILE))
    assert args.num_workers == 2
    assert args.bf16
    assert args.sharding == ShardingOptions(
        reshard_after_forward=False, layer_classes=("BertLayer",), loads_on_meta=True
    )


def test_an_argument_that_says_the_same_is_fine_and_another_is_refused(tmp_path):
    path = write(tmp_path, FSDP_FILE)
    TrainingArguments(output_dir=str(tmp_path), accelerate_config=path, num_workers=2)
    with pytest.raises(ConfigurationError, match=r"num_workers=4, but .*config_file.yaml says num_workers=2"):
        TrainingArguments(output_dir=str(tmp_path), accelerate_config=path, num_workers=4)


@pytest.mark.parametrize(
    ("words", "fields"),
    [
        ({"distributed_type": "NO"}, {}),
        ({"distributed_type": "MULTI_CPU", "num_processes": 2}, {"use_cpu": True, "num_workers": 2}),
        (
            {"distributed_type": "MULTI_GPU", "num_processes": 8, "num_machines": 2},
            {"use_gpu": True, "num_workers": 8, "placement_strategy": "SPREAD"},
        ),
        ({"distributed_type": "MULTI_GPU", "use_cpu": True}, {"use_cpu": True}),
        ({"distributed_type": "NO", "mixed_precision": False}, {}),
        (
            {"distributed_type": "NO", "mixed_precision": "fp16", "max_restarts": 2},
            {"fp16": True, "max_failures": 2},
        ),
    ],
)
def test_words_become_fields(words, fields):
    assert translate(words, source="test") == fields


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            {"distributed_type": "DEEPSPEED", "deepspeed_config": {"zero_stge": 2}},
            "Did you mean 'zero_stage'",
        ),
        (
            {
                "distributed_type": "DEEPSPEED",
                "deepspeed_config": {"deepspeed_config_file": "ds.json", "zero_stage": 3},
            },
            "Keep one of the two",
        ),
        ({"distributed_type": "MEGATRON_LM"}, "Megatron-LM is not available"),
        ({"distributed_type": "FSPD"}, "use one of"),
        ({"machine_rank": 1}, r"Ray numbers the nodes itself"),
        ({"main_process_ip": "10.0.0.1"}, "ray_address"),
        ({"gpu_ids": "0,1"}, "Ray assigns GPUs"),
        ({"mixed_precision": "fp8"}, "Use no, bf16 or fp16"),
        ({"num_processes": 0}, "at least 1"),
        ({"num_procesess": 2}, "Did you mean 'num_processes'"),
        ({"dynamo_config": {"dynamo_backend": "INDUCTOR"}}, "set torch_compile_backend"),
        ({"compute_environment": "AMAZON_SAGEMAKER"}, "submit the script to Ray"),
    ],
)
def test_what_makes_no_sense_on_ray_is_refused_with_the_way_of_ray(words, message):
    with pytest.raises(ConfigurationError, match=message):
        translate({"distributed_type": "NO", **words}, source="test")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("distributed_type: [FSDP\nnum_processes: 2\n", r"line \d+, column \d+"),
        ("- a\n- b\n", "not an accelerate config"),
        ("num_processes: 2\n", "no distributed_type"),
    ],
)
def test_a_broken_file_is_refused_with_its_place(tmp_path, text, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainingArguments(output_dir=str(tmp_path), accelerate_config=write(tmp_path, text))


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="cannot be read"):
        TrainingArguments(output_dir=str(tmp_path), accelerate_config=str(tmp_path / "nothing.yaml"))


def test_the_environment_of_accelerate_launch_switches_fsdp_on(tmp_path, monkeypatch):
    for name, value in {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "1",
        "FSDP_SHARDING_STRATEGY": "2",
        "FSDP_RESHARD_AFTER_FORWARD": "true",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_TRANSFORMER_CLS_TO_WRAP": "BertLayer",
        "FSDP_MIN_NUM_PARAMS": "100000000",
    }.items():
        monkeypatch.setenv(name, value)
    args = TrainingArguments(output_dir=str(tmp_path))
    assert args.sharding == ShardingOptions(reshard_after_forward=False, layer_classes=("BertLayer",))
