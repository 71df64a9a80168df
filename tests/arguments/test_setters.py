"""The fluent setters work on these arguments, and check values as the constructor does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from raytrainer import ConfigurationError, Trainer, TrainingArguments
from tests.parity.twins import make_model, make_samples

Setter = Callable[[TrainingArguments], Any]

WORKING: dict[str, tuple[Setter, dict[str, Any]]] = {
    "set_training": (
        lambda args: args.set_training(
            learning_rate=1e-4, batch_size=3, max_steps=5, gradient_accumulation_steps=2
        ),
        {
            "learning_rate": 1e-4,
            "per_device_train_batch_size": 3,
            "max_steps": 5,
            "gradient_accumulation_steps": 2,
        },
    ),
    "set_evaluate": (
        lambda args: args.set_evaluate("steps", steps=10, batch_size=7),
        {"eval_strategy": "steps", "eval_steps": 10, "per_device_eval_batch_size": 7, "do_eval": True},
    ),
    "set_testing": (
        lambda args: args.set_testing(batch_size=6, loss_only=True),
        {"per_device_eval_batch_size": 6, "prediction_loss_only": True, "do_predict": True},
    ),
    "set_save": (
        lambda args: args.set_save("steps", steps=20, total_limit=2),
        {"save_strategy": "steps", "save_steps": 20, "save_total_limit": 2},
    ),
    "set_logging": (
        lambda args: args.set_logging("steps", steps=4, level="error", report_to="tensorboard"),
        {"logging_strategy": "steps", "logging_steps": 4, "log_level": "error", "report_to": "tensorboard"},
    ),
    "set_optimizer": (
        lambda args: args.set_optimizer("adamw_torch", learning_rate=1e-3, beta1=0.8),
        {"optim": "adamw_torch", "learning_rate": 1e-3, "adam_beta1": 0.8},
    ),
    "set_lr_scheduler": (
        lambda args: args.set_lr_scheduler("cosine", num_epochs=2, warmup_steps=5),
        {"lr_scheduler_type": "cosine", "num_train_epochs": 2, "warmup_steps": 5},
    ),
    "set_dataloader": (
        lambda args: args.set_dataloader(train_batch_size=5, drop_last=True, sampler_seed=3),
        {"per_device_train_batch_size": 5, "dataloader_drop_last": True, "data_seed": 3},
    ),
}


@pytest.mark.parametrize("name", WORKING)
def test_a_setter_sets_and_a_trainer_takes_it(name: str, tmp_path: Any) -> None:
    setter, wanted = WORKING[name]
    args = TrainingArguments(str(tmp_path), use_cpu=True)
    assert setter(args) is args
    assert {field: getattr(args, field) for field in wanted} == wanted
    Trainer(model=make_model(), args=args, train_dataset=make_samples(2), eval_dataset=make_samples(2))


BROKEN: dict[str, tuple[Setter, str]] = {
    "batch_size": (lambda args: args.set_training(batch_size=0), "per_device_train_batch_size=0"),
    "eval_steps": (lambda args: args.set_evaluate("steps", steps=2.5), "eval_steps=2.5"),
    "report_to": (lambda args: args.set_logging(report_to="nope"), "report_to='nope'"),
    "level": (lambda args: args.set_logging(level="loud"), "log_level='loud'"),
    "plateau": (lambda args: args.set_lr_scheduler("reduce_lr_on_plateau"), "eval_strategy='no'"),
    "workers": (
        lambda args: args.set_dataloader(persistent_workers=True),
        "dataloader_persistent_workers=True",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_a_setter_breaks_is_found_before_training(name: str, tmp_path: Any) -> None:
    setter, says = BROKEN[name]
    args = setter(TrainingArguments(str(tmp_path), use_cpu=True))
    with pytest.raises(ConfigurationError, match=says):
        Trainer(model=make_model(), args=args, train_dataset=make_samples(2))


@pytest.mark.parametrize(("warmup", "steps"), [(7, 7), (0.25, 5), (0.26, 6), (1, 1), (0, 0)])
def test_warmup_is_a_number_of_steps_or_a_share_of_them(warmup: float, steps: int) -> None:
    assert TrainingArguments(warmup_steps=warmup).get_warmup_steps(20) == steps


def test_the_guides_logging_snippet_runs(tmp_path: Any, monkeypatch: Any, caplog: Any) -> None:
    import logging
    import sys

    import datasets
    import transformers

    monkeypatch.delenv("TRANSFORMERS_VERBOSITY", raising=False)
    before = transformers.utils.logging.get_verbosity(), datasets.utils.logging.get_verbosity()
    transformers.utils.logging.set_verbosity_warning()
    training_args = TrainingArguments(
        str(tmp_path), use_cpu=True, num_workers=0, max_steps=1, disable_tqdm=True
    )
    logger = logging.getLogger("of_the_script")
    try:
        logging.basicConfig(
            format="%(asctime)s - %(levelname)s - %(name)s - %(message)s",
            datefmt="%m/%d/%Y %H:%M:%S",
            handlers=[logging.StreamHandler(sys.stdout)],
        )
        log_level = training_args.get_process_log_level()
        logger.setLevel(log_level)
        datasets.utils.logging.set_verbosity(log_level)
        transformers.utils.logging.set_verbosity(log_level)
        assert log_level == logging.INFO
        trainer = Trainer(model=make_model(), args=training_args, train_dataset=make_samples(4))
        trainer.train()
        assert logger.isEnabledFor(logging.INFO)
        assert transformers.utils.logging.get_verbosity() == logging.INFO, "training changed it back"
    finally:
        transformers.utils.logging.set_verbosity(before[0])
        datasets.utils.logging.set_verbosity(before[1])
        logger.setLevel(logging.NOTSET)
