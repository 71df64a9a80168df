"""DeepSpeed's JSON is read, completed from the arguments, and checked before any worker starts."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from raytrainer import TrainingArguments
from raytrainer.dialects.deepspeed import _SECTIONS, _TOP, read_deepspeed
from raytrainer.dialects.deepspeed_auto import engine_config, section_params
from raytrainer.errors import ConfigurationError

ZERO = {"zero_optimization": {"stage": 2}}


def filled(config, world_size=2, hidden=32, **options):
    args = TrainingArguments(deepspeed=config, **options)
    model = torch.nn.Module()
    model.config = transformers.PretrainedConfig(**({"hidden_size": hidden} if hidden else {}))
    return engine_config(args.zero, args, world_size=world_size, model=model)


def test_what_is_left_out_comes_from_the_arguments():
    found = filled(
        ZERO, per_device_train_batch_size=4, gradient_accumulation_steps=3, max_grad_norm=0.5, bf16=True
    )
    assert found["train_batch_size"] == 24
    assert found["train_micro_batch_size_per_gpu"] == 4
    assert found["gradient_accumulation_steps"] == 3
    assert found["gradient_clipping"] == 0.5
    assert found["bf16"] == {"enabled": True}
    assert found["fp16"] == {"enabled": False}


def test_auto_is_filled_from_the_arguments_and_the_models_hidden_size():
    config = {
        "train_batch_size": "auto",
        "gradient_clipping": "auto",
        "bf16": {"enabled": "auto"},
        "zero_optimization": {
            "stage": 3,
            "reduce_bucket_size": "auto",
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
        },
    }
    found = filled(config, per_device_train_batch_size=8)
    assert found["train_batch_size"] == 16
    assert found["zero_optimization"] == {
        "stage": 3,
        "reduce_bucket_size": 1024,
        "stage3_prefetch_bucket_size": 921,
        "stage3_param_persistence_threshold": 320,
    }


def test_auto_in_the_sections_of_optimizer_and_schedule_comes_from_the_arguments():
    args = TrainingArguments(learning_rate=3e-4, weight_decay=0.1, adam_beta2=0.95, warmup_steps=5)
    optimizer = {"type": "AdamW", "params": dict.fromkeys(("lr", "betas", "eps", "weight_decay"), "auto")}
    assert section_params(optimizer, args) == {
        "lr": 3e-4,
        "betas": (0.9, 0.95),
        "eps": 1e-8,
        "weight_decay": 0.1,
    }
    schedule = {
        "type": "WarmupDecayLR",
        "params": dict.fromkeys(
            ("warmup_min_lr", "warmup_max_lr", "warmup_num_steps", "total_num_steps"), "auto"
        ),
    }
    assert section_params(schedule, args, max_steps=50) == {
        "warmup_min_lr": 0.0,
        "warmup_max_lr": 3e-4,
        "warmup_num_steps": 5,
        "total_num_steps": 50,
    }


def test_auto_for_a_size_needs_a_model_with_a_hidden_size():
    with pytest.raises(ConfigurationError, match=r"no hidden_size.*reduce_bucket_size"):
        filled({"zero_optimization": {"stage": 2, "reduce_bucket_size": "auto"}}, hidden=None)


def test_a_file_is_read_on_the_driver(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text(json.dumps(ZERO))
    args = TrainingArguments(deepspeed=str(path))
    assert args.deepspeed == ZERO
    assert args.zero is not None
    assert args.zero.stage == 2


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"zero_optimization": {"stage": 4}}, "stage 4 does not exist"),
        ({"zero_optimization": {"stage": 0}}, "shards nothing"),
        ({"gradient_clipping": 1.0}, "shards nothing"),
        ({**ZERO, "gradient_cliping": 1.0}, "Did you mean 'gradient_clipping'"),
        ({"zero_optimization": {"stage": 2, "overlap_com": True}}, "Did you mean 'overlap_comm'"),
        ({"zero_optimization": {"stage": 2, "allgather_bucket_size": "auto"}}, '"auto" has no meaning here'),
        ({**ZERO, "communication_data_type": "auto"}, '"auto" has no meaning here'),
        ({**ZERO, "elasticity": {"enabled": True}}, r"set num_workers"),
        ({**ZERO, "activation_checkpointing": {"partition_activations": True}}, "activation_checkpointing=True"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "nvme"}}}, "NVMe"),
        ({"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}}, "Use 'cpu' or"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "Use stage 3"),
        ({"zero_optimization": {"stage": 3, "zero_quantized_weights": True}}, "not tested here"),
        ({**ZERO, "optimizer": {"type": "OneBitAdam"}}, "Use one of Adam, AdamW"),
        ({**ZERO, "scheduler": {"type": "Cosine"}}, "Use one of WarmupLR"),
        ({**ZERO, "bf16": True}, "an object was expected"),
        (
            {"zero_optimization": {"stage": 1}, "data_types": {"grad_accum_dtype": "fp32"}},
            "Use stage 2",
        ),
        (5, "Give a dict, or the path"),
        ("/nowhere/ds.json", "cannot be read"),
    ],
)  # fmt: skip
def test_what_deepspeed_would_ignore_or_cannot_do_is_an_error(config, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainingArguments(deepspeed=config)


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        ({**ZERO, "gradient_accumulation_steps": 4}, {}, "gradient_accumulation_steps=4, but .* is 1"),
        ({**ZERO, "gradient_clipping": 0.5}, {}, "max_grad_norm is 1.0"),
        ({**ZERO, "bf16": {"enabled": True}}, {}, "bf16.enabled=True, but bf16 is False"),
        ({**ZERO, "train_batch_size": 99}, {"num_workers": 2}, "train_batch_size=99, but .* is 16"),
        ({**ZERO, "optimizer": {"type": "AdamW", "params": {"lr": 1.0}}}, {}, "learning_rate is"),
        (ZERO, {"fsdp": True}, "both shard"),
        (ZERO, {"bf16": True, "bf16_full_eval": True}, "bf16_full_eval"),
    ],
)
def test_what_is_said_twice_must_be_the_same(config, options, message):
    with pytest.raises(ConfigurationError, match=message):
        TrainingArguments(deepspeed=config, **options)


def test_an_error_in_a_file_says_where(tmp_path):
    path = tmp_path / "ds.json"
    path.write_text('{\n  "zero_optimization": {\n    "stage": 2,\n    "bucket": 5\n  }\n}\n')
    with pytest.raises(ConfigurationError, match=r"ds.json, line 4: deepspeed zero_optimization.bucket"):
        TrainingArguments(deepspeed=str(path))
    path.write_text('{\n  "zero_optimization": {\n    "stage": 2,,\n')
    with pytest.raises(ConfigurationError, match="line 3, column 16"):
        TrainingArguments(deepspeed=str(path))


def test_nothing_is_asked_by_default():
    assert TrainingArguments().zero is None
    assert read_deepspeed({}) is None


def test_known_keys_are_deepspeeds_own():
    zero_config = pytest.importorskip("deepspeed.runtime.zero.config").DeepSpeedZeroConfig
    known = {field.alias or name for name, field in zero_config.model_fields.items()}
    assert set(_SECTIONS["zero_optimization"]) <= known
    for key in _TOP:
        assert isinstance(key, str)


def test_a_copy_of_arguments_keeps_the_config():
    args = TrainingArguments(deepspeed=ZERO)
    again = TrainingArguments(**{**args.to_dict(), "output_dir": "x"})
    assert again.deepspeed == ZERO
