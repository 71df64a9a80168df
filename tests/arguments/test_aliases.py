"""Names of earlier versions: accepted with one warning, or refused with the reason."""

from __future__ import annotations

import dataclasses
import pickle
import warnings

import pytest

from raytrainer import ConfigurationError, TrainingArguments
from raytrainer.arguments.aliases import ALIASES, trainer_keyword
from raytrainer.errors import UnknownArgumentError

old_names = pytest.mark.filterwarnings("ignore::FutureWarning")

REMOVED = [
    "evaluation_strategy",
    "overwrite_output_dir",
    "logging_dir",
    "group_by_length",
    "warmup_ratio",
    "no_cuda",
    "use_mps_device",
    "use_ipex",
    "tpu_num_cores",
    "save_safetensors",
    "include_tokens_per_second",
    "include_inputs_for_metrics",
    "dispatch_batches",
    "split_batches",
    "per_gpu_train_batch_size",
    "per_gpu_eval_batch_size",
    "adafactor",
    "fp16_backend",
    "half_precision_backend",
    "fp16_opt_level",
    "torchdynamo",
    "ray_scope",
    "mp_parameters",
    "past_index",
    "jit_mode_eval",
    "use_legacy_prediction_loop",
    "push_to_hub_model_id",
    "fsdp_min_num_params",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
]


@pytest.mark.parametrize("name", REMOVED)
def test_every_removed_name_is_known(name):
    assert name in ALIASES or name in {field.name for field in dataclasses.fields(TrainingArguments)}


def test_no_alias_hides_a_field_of_today():
    assert not ALIASES.keys() & {field.name for field in dataclasses.fields(TrainingArguments)}


@old_names
@pytest.mark.parametrize(
    ("old", "field", "value"),
    [
        ({"evaluation_strategy": "steps"}, "eval_strategy", "steps"),
        ({"evaluation_strategy": None}, "eval_strategy", "no"),
        ({"per_gpu_train_batch_size": 4}, "per_device_train_batch_size", 4),
        ({"per_gpu_eval_batch_size": 4}, "per_device_eval_batch_size", 4),
        ({"warmup_ratio": 0.1}, "warmup_steps", 0.1),
        ({"warmup_ratio": 0.0, "warmup_steps": 50}, "warmup_steps", 50),
        ({"no_cuda": True}, "use_cpu", True),
        ({"no_cuda": False}, "use_cpu", False),
        ({"adafactor": True}, "optim", "adafactor"),
        ({"group_by_length": False}, "train_sampling_strategy", "random"),
        ({"include_tokens_per_second": True}, "include_num_input_tokens_seen", "all"),
        ({"include_inputs_for_metrics": True}, "include_for_metrics", ["inputs"]),
        (
            {"include_inputs_for_metrics": True, "include_for_metrics": ["loss"]},
            "include_for_metrics",
            ["loss", "inputs"],
        ),
        ({"evaluate_during_training": True}, "eval_strategy", "steps"),
        ({"gradient_checkpointing": True}, "activation_checkpointing", True),
        ({"logging_dir": "tb"}, "logging_dir", "tb"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_old_name_sets_todays_field(old, field, value):
    assert getattr(TrainingArguments(**old), field) == value


@old_names
@pytest.mark.parametrize(
    "harmless",
    [
        {"overwrite_output_dir": True},
        {"use_mps_device": True},
        {"fp16_opt_level": "O2"},
        {"fp16_backend": "auto"},
        {"half_precision_backend": "cuda_amp"},
        {"save_safetensors": True},
        {"past_index": -1},
        {"jit_mode_eval": False},
        {"use_legacy_prediction_loop": False},
        {"use_ipex": False},
        {"tpu_num_cores": None},
        {"mp_parameters": ""},
        {"sharded_ddp": ""},
        {"ray_scope": "last"},
        {"push_to_hub_organization": None},
        {"torchdynamo": None},
        {"dispatch_batches": None},
        {"split_batches": False},
        {"fsdp_min_num_params": 0},
    ],
    ids=lambda value: next(iter(value)),
)
def test_name_without_a_meaning_today_is_accepted_with_a_warning_when_harmless(harmless):
    with pytest.warns(FutureWarning, match=next(iter(harmless))):
        assert TrainingArguments(**harmless) == TrainingArguments()


@old_names
@pytest.mark.parametrize(
    "asking",
    [
        {"fp16_backend": "apex"},
        {"save_safetensors": False},
        {"past_index": 2},
        {"jit_mode_eval": True},
        {"use_legacy_prediction_loop": True},
        {"use_ipex": True},
        {"tpu_num_cores": 8},
        {"tpu_metrics_debug": True},
        {"mp_parameters": "{}"},
        {"sharded_ddp": "simple"},
        {"ray_scope": "all"},
        {"push_to_hub_organization": "me"},
        {"warmup_ratio": 1.0},
    ],
    ids=lambda value: next(iter(value)),
)
def test_name_without_an_equivalent_is_refused_when_it_asks_for_something(asking):
    with pytest.raises(ConfigurationError, match=next(iter(asking))):
        TrainingArguments(**asking)


@old_names
def test_group_by_length_is_a_sampling_strategy():
    assert TrainingArguments(group_by_length=True).train_sampling_strategy == "group_by_length"


def test_torchdynamo_is_the_backend_of_torch_compile():
    assert TrainingArguments(torchdynamo="aot_eager").torch_compile_backend == "aot_eager"


@old_names
@pytest.mark.parametrize("key", ["split_batches", "dispatch_batches"])
def test_old_name_of_a_key_is_the_key(key):
    assert getattr(TrainingArguments(**{key: True}).accelerator_config, key) is True


@old_names
@pytest.mark.parametrize(
    "both",
    [
        {"evaluation_strategy": "steps", "eval_strategy": "epoch"},
        {"warmup_ratio": 0.1, "warmup_steps": 100},
        {"adafactor": True, "optim": "sgd"},
        {"per_gpu_train_batch_size": 4, "per_device_train_batch_size": 16},
        {"include_tokens_per_second": True, "include_num_input_tokens_seen": "non_padding"},
    ],
    ids=lambda value: next(iter(value)),
)
def test_old_and_new_name_with_different_values_are_an_error(both):
    with pytest.raises(ConfigurationError, match="contradict each other") as caught:
        TrainingArguments(**both)
    assert all(name in str(caught.value) for name in both)


@old_names
def test_old_and_new_name_with_the_same_value_are_fine():
    assert TrainingArguments(evaluation_strategy="epoch", eval_strategy="epoch").eval_strategy == "epoch"


def test_each_old_name_warns_once_per_process():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            TrainingArguments(evaluation_strategy="steps", no_cuda=True)
    assert sorted(str(w.message).split("`")[1] for w in caught) == ["evaluation_strategy", "no_cuda"]


def test_warning_names_todays_spelling_and_points_at_the_callers_file():
    with pytest.warns(FutureWarning, match="write `eval_strategy` instead") as caught:
        TrainingArguments(evaluation_strategy="steps")
    assert caught[0].filename == __file__


@old_names
def test_a_script_reads_back_the_old_names():
    args = TrainingArguments(overwrite_output_dir=True, evaluation_strategy="epoch", warmup_ratio=0.2)
    again = pickle.loads(pickle.dumps(args))
    assert (again.overwrite_output_dir, again.evaluation_strategy, again.warmup_ratio) == (True, "epoch", 0.2)
    assert TrainingArguments().overwrite_output_dir is False


def test_a_name_that_never_was_is_no_attribute():
    assert not hasattr(TrainingArguments(), "never_was")


@pytest.mark.parametrize("error", [ConfigurationError, TypeError, ValueError, UnknownArgumentError])
def test_unknown_argument_is_named_with_the_nearest(error):
    with pytest.raises(error, match=r"TrainingArguments has no argument 'learning_rte'.*'learning_rate'"):
        TrainingArguments(learning_rte=1e-3)


def test_unknown_argument_that_resembles_nothing_is_named_alone():
    with pytest.raises(UnknownArgumentError, match="'zzzzzz'") as caught:
        TrainingArguments(zzzzzz=1)
    assert "Did you mean" not in str(caught.value)


def test_tokenizer_is_the_processing_class():
    tokenizer = object()
    with pytest.warns(FutureWarning, match="processing_class="):
        assert trainer_keyword(tokenizer, None) is tokenizer


@old_names
def test_tokenizer_and_the_same_processing_class_agree():
    tokenizer = object()
    assert trainer_keyword(tokenizer, tokenizer) is tokenizer


@old_names
def test_tokenizer_and_another_processing_class_contradict():
    with pytest.raises(ConfigurationError, match="Pass only processing_class="):
        trainer_keyword(object(), object())


@pytest.mark.filterwarnings("error")
def test_processing_class_alone_warns_of_nothing():
    assert trainer_keyword(None, 3) == 3
