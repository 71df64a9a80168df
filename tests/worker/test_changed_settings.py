"""Arguments that are changed between two calls in one process count, or are refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from raytrainer import ConfigurationError
from tests.parity.twins import make_model, make_trainer


def trained(directory: Path, **options: Any) -> Any:
    trainer = make_trainer(raytrainer, directory, max_steps=1, **options)
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("bf16", True),
        ("fsdp", True),
        ("gradient_checkpointing", True),
        ("label_smoothing_factor", 0.1),
        ("ddp_find_unused_parameters", True),
        ("torch_compile", True),
    ],
)
def test_a_change_that_would_have_no_effect_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    setattr(trainer.args, name, value)
    for method in ("train", "evaluate"):
        with pytest.raises(ConfigurationError, match=rf"args\.{name} changed after .*model=trainer\.model"):
            getattr(trainer, method)()


def test_new_arguments_are_compared_too(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    trainer.args = dataclasses.replace(trainer.args, learning_rate=0.0)
    trainer.train()
    trainer.args = dataclasses.replace(trainer.args, bf16=True)
    with pytest.raises(ConfigurationError, match=r"^args\.bf16 changed"):
        trainer.train()


def test_activation_checkpointing_counts_from_the_next_call_and_cannot_be_turned_off(tmp_path: Path) -> None:
    trainer = trained(tmp_path)
    assert not trainer.model.is_gradient_checkpointing
    trainer.args.activation_checkpointing = True
    trainer.train()
    assert trainer.model.is_gradient_checkpointing
    trainer.args.activation_checkpointing = False
    with pytest.raises(ConfigurationError, match=r"args\.activation_checkpointing changed"):
        trainer.train()


def test_a_model_that_is_built_anew_is_built_as_the_arguments_say_now(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=1)
    trainer.model, trainer.model_init = None, lambda: make_model()
    trainer.train()
    assert trainer.model.config.use_cache is False
    trainer.args.use_cache = True
    trainer.train()
    assert trainer.model.config.use_cache is True
    trainer.args.label_smoothing_factor = 0.1  # found in the first model
    with pytest.raises(ConfigurationError, match=r"args\.label_smoothing_factor"):
        trainer.train()


def test_the_log_level_follows(tmp_path: Path) -> None:
    level = transformers.utils.logging.get_verbosity()
    try:
        trainer = trained(tmp_path)
        trainer.args.log_level = "error"
        trainer.evaluate()
        assert transformers.utils.logging.get_verbosity() == transformers.utils.logging.ERROR
    finally:
        transformers.utils.logging.set_verbosity(level)


class Changes(transformers.TrainerCallback):
    """Changes an argument within a run."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        args.bf16 = True


def test_what_changes_within_a_run_does_not_end_it(tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=2, eval_strategy="steps", eval_steps=1)
    trainer.add_callback(Changes())
    trainer.train()
    assert trainer.state.global_step == 2
    assert {value.dtype for value in trainer.model.state_dict().values()} == {torch.float32}
    with pytest.raises(ConfigurationError, match=r"args\.bf16"):
        trainer.train()
