"""Workers that end without leaving the weights that they trained: those from before do not take their place unsaid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

import raytrainer
from raytrainer import ModelError
from raytrainer.checkpoint.names import list_checkpoints
from raytrainer.checkpoint.tensor_files import read_tensors
from tests.driver.same_process import SameProcessGroup, same_process
from tests.parity.twins import make_model, make_trainer

__all__ = ["same_process"]


class NotAtTheEnd(TrainerCallback):
    """The last step would be saved, too."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.global_step == 2


def lose(trainer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """End the workers of a trainer, as a failure does that they do not survive."""
    monkeypatch.setattr(trainer._process.workers._group, "final_weights", lambda: None)
    trainer._process.workers._group.end()


@pytest.fixture
def trainer(tmp_path: Path, same_process: list[SameProcessGroup], monkeypatch: pytest.MonkeyPatch) -> Any:
    """One that has trained and saved, and has lost its workers; its last step has no checkpoint."""
    options: dict[str, Any] = {"num_ranks": 1, "max_steps": 3, "save_strategy": "steps", "save_steps": 2}
    trained = make_trainer(raytrainer, tmp_path, **options)
    trained.add_callback(NotAtTheEnd())
    trained.train()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-2"]
    lose(trained, monkeypatch)
    return trained


@pytest.mark.parametrize("call", ["evaluate", "model"])
def test_the_checkpoint_of_the_last_step_has_them(
    tmp_path: Path, same_process: list[SameProcessGroup], monkeypatch: pytest.MonkeyPatch, call: str
):
    options: dict[str, Any] = {"num_ranks": 1, "max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trainer = make_trainer(raytrainer, tmp_path, **options)
    trainer.train()
    expected = trainer.evaluate()["eval_loss"]
    trained = read_tensors(tmp_path / "checkpoint-4/model.safetensors")
    start = trainer._own_model.state_dict()
    assert any(not torch.equal(start[name], value) for name, value in trained.items())
    lose(trainer, monkeypatch)
    if call == "evaluate":
        assert trainer.evaluate()["eval_loss"] == expected
    for name, value in trained.items():
        assert torch.equal(trainer.model.state_dict()[name], value)


@pytest.mark.parametrize("call", ["evaluate", "save_model", "predict"])
def test_what_would_use_the_weights_from_before_is_refused_with_the_checkpoint_to_load(
    trainer: Any, tmp_path: Path, call: str
):
    args = [trainer.eval_dataset] if call == "predict" else []
    for _ in range(2):
        with pytest.raises(
            ModelError, match=rf"{call}\(\) would use weights from before .*checkpoint-2, or go on"
        ):
            getattr(trainer, call)(*args)
    assert not (tmp_path / "model.safetensors").exists()


def test_without_a_checkpoint_it_says_so(
    tmp_path: Path, same_process: list[SameProcessGroup], monkeypatch: pytest.MonkeyPatch
):
    trainer = make_trainer(raytrainer, tmp_path, num_ranks=1, max_steps=2, save_strategy="no")
    trainer.train()
    lose(trainer, monkeypatch)
    with pytest.raises(ModelError, match="No checkpoint was saved"):
        trainer.evaluate()


def test_a_model_that_is_loaded_since_is_used(trainer: Any, same_process: list[SameProcessGroup]):
    with pytest.raises(ModelError):
        trainer.evaluate()
    trainer.model = make_model()
    assert trainer.evaluate()["eval_loss"] > 0
    assert len(same_process) == 2


def test_training_goes_on_from_a_checkpoint_and_brings_weights(trainer: Any):
    trainer.args.max_steps = 4
    trainer.train(resume_from_checkpoint=True)
    assert trainer.state.global_step == 4
    assert trainer.evaluate()["eval_loss"] > 0
