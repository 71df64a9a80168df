"""Values that can never be right, and arguments that contradict each other, are refused at once."""

from __future__ import annotations

import pytest

from raytrainer import ConfigurationError, TrainingArguments

WRONG_VALUES = [
    ({"eval_strategy": "step"}, r"eval_strategy='step' is not one of \['no', 'steps', 'epoch'\].*'steps'"),
    ({"save_strategy": "always"}, "save_strategy='always'"),
    ({"lr_scheduler_type": "cosin"}, "Did you mean 'cosine'"),
    ({"optim": "adamw"}, "optim='adamw'"),
    ({"log_level": "loud"}, "log_level='loud'"),
    ({"ddp_backend": "glo"}, "ddp_backend='glo'"),
    ({"train_sampling_strategy": "shuffle"}, "train_sampling_strategy"),
    ({"dataloader_multiprocessing_context": "thread"}, "dataloader_multiprocessing_context"),
    ({"include_num_input_tokens_seen": "some"}, "include_num_input_tokens_seen"),
    ({"report_to": "tensorbord"}, "Did you mean 'tensorboard'"),
    ({"report_to": ["wandb", "mlfow"]}, "Did you mean 'mlflow'"),
    ({"per_device_train_batch_size": 0}, "per_device_train_batch_size=0"),
    ({"gradient_accumulation_steps": 0}, "gradient_accumulation_steps=0"),
    ({"gradient_accumulation_steps": True}, "gradient_accumulation_steps=True"),
    ({"learning_rate": -1.0}, "learning_rate"),
    ({"learning_rate": float("nan")}, "learning_rate=nan"),
    ({"learning_rate": "fast"}, "learning_rate='fast' is text"),
    ({"max_steps": "1.5"}, "max_steps='1.5' is not a whole number"),
    ({"warmup_steps": -1}, "warmup_steps=-1"),
    ({"label_smoothing_factor": 1.0}, "label_smoothing_factor"),
    ({"adam_beta2": 1.0}, "adam_beta2"),
    ({"torch_empty_cache_steps": 0}, "torch_empty_cache_steps"),
    ({"max_steps": None}, "max_steps=None.*Leave it out for the default, -1"),
    ({"lr_scheduler_kwargs": "{broken"}, "is text, but not that of a JSON object"),
]
CONTRADICTIONS = [
    (
        {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "steps"},
        "eval_strategy='epoch' and save_strategy='steps' differ",
    ),
    ({"load_best_model_at_end": True}, "eval_strategy='no' and save_strategy='steps' differ"),
    (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 200, "save_steps": 300},
        "save_steps=300 and eval_steps=200",
    ),
    (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.2, "save_steps": 300},
        "save_steps=300 and eval_steps=0.2",
    ),
    (
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.2, "save_steps": 0.3},
        "save_steps=0.3 and eval_steps=0.2",
    ),
    ({"async_save_overlap": "merge"}, "async_save_overlap='merge' needs .* Set async_save=True too"),
    (
        {
            "async_save_overlap": "merge",
            "load_best_model_at_end": True,
            "eval_strategy": "steps",
            "save_strategy": "steps",
        },
        "async_save_overlap='merge' .* load_best_model_at_end=True needs the weights",
    ),
    ({"logging_steps": 0}, "logging_strategy='steps' needs an interval above 0, but logging_steps=0"),
    ({"save_steps": 0}, "save_strategy='steps' needs an interval above 0, but save_steps=0"),
    ({"logging_steps": 2.5}, "logging_steps=2.5"),
    ({"save_steps": 2.5}, "save_steps=2.5"),
    ({"eval_strategy": "steps", "eval_steps": 2.5}, "eval_steps=2.5"),
    ({"eval_strategy": "steps", "logging_steps": 0, "logging_strategy": "no"}, "Set eval_steps"),
    ({"save_strategy": "best", "eval_strategy": "epoch"}, "metric_for_best_model"),
    ({"save_strategy": "best", "metric_for_best_model": "loss"}, "never evaluates"),
    ({"fp16": True, "bf16": True}, "fp16=True and bf16=True"),
    ({"fp16_full_eval": True, "bf16_full_eval": True}, "fp16_full_eval=True and bf16_full_eval=True"),
    ({"fp16": True, "use_cpu": True}, "fp16=True with use_cpu=True"),
    ({"fp16": True, "use_gpu": False}, "fp16=True with use_gpu=False"),
    ({"tf32": True, "use_cpu": True}, "tf32=True with use_cpu=True"),
    ({"ddp_backend": "nccl", "use_cpu": True}, "ddp_backend='nccl'"),
    ({"lr_scheduler_type": "reduce_lr_on_plateau"}, "follows an evaluation metric"),
    ({"lr_scheduler_type": "greedy"}, "follows an evaluation metric"),
    ({"dataloader_prefetch_factor": 2}, "dataloader_num_workers=0"),
    ({"dataloader_persistent_workers": True}, "dataloader_num_workers=0"),
    ({"use_cpu": True, "use_gpu": True}, "use_cpu=True and use_gpu=True"),
    ({"use_cpu": True, "resources_per_worker": {"GPU": 1}}, "would be reserved but not used"),
]


@pytest.mark.parametrize(("options", "words"), WRONG_VALUES, ids=lambda value: str(value)[:50])
def test_value_that_can_never_be_right_is_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        TrainingArguments(**options)


@pytest.mark.parametrize(("options", "words"), CONTRADICTIONS, ids=lambda value: str(value)[:50])
def test_contradiction_is_refused(options, words):
    with pytest.raises(ConfigurationError, match=words):
        TrainingArguments(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 100, "save_steps": 300},
        {"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 0.2, "save_steps": 0.6},
        {
            "load_best_model_at_end": True,
            "eval_strategy": "epoch",
            "save_strategy": "best",
            "metric_for_best_model": "loss",
        },
        {"logging_strategy": "no", "logging_steps": 0},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
        {"bf16": True, "use_cpu": True},
        {"use_cpu": True, "use_gpu": False},
        {"save_strategy": False, "logging_strategy": False},
        {"report_to": "all"},
        {"learning_rate": "1e-3", "max_steps": "10", "warmup_steps": "0.1"},
        {"torch_empty_cache_steps": 3, "save_total_limit": 0},
        {"max_grad_norm": 0},
    ],
    ids=str,
)
def test_sound_arguments_pass(options):
    TrainingArguments(**options)
