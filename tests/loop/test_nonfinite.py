"""A NaN is traced to the module that produced it, and to its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer.driver.entry_points import open_local_session
from tests.parity.twins import make_args

BAD = 17
"""Position of the sample that makes a NaN."""


class Divide(torch.nn.Module):
    """Divides marked inputs by zero."""

    def forward(self, x: torch.Tensor, mark: torch.Tensor) -> torch.Tensor:
        return x / torch.where(mark, 0.0, 1.0)


class Fragile(torch.nn.Module):
    """Returns an infinite value for the marked sample, from its submodule ``divide``."""

    def __init__(self, *, hides_it: bool = False) -> None:
        super().__init__()
        self.first = torch.nn.Linear(1, 2)
        self.divide = Divide()
        self.norm = torch.nn.BatchNorm1d(2)
        self.drop = torch.nn.Dropout(0.1)
        self.hides_it = hides_it

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        hidden = self.first(x)
        divided = self.divide(hidden, x > 0)
        hidden = hidden if self.hides_it else divided
        hidden = self.drop(self.norm(hidden))
        return {"loss": (hidden.sum(-1) - labels).pow(2).mean()}


def train(directory: Path, model: Any = None, **options: Any) -> tuple[Any, list[str]]:
    """Train, and return the trainer and the notes to the user."""
    model = Fragile() if model is None else model
    samples = [{"x": torch.tensor([float(i == BAD)]), "labels": torch.tensor(0.5)} for i in range(24)]
    trainer = raytrainer.Trainer(
        model=model,
        args=make_args(raytrainer, directory, **{"num_train_epochs": 1, "logging_steps": 3, **options}),
        train_dataset=samples,
    )
    events: list[Any] = []
    open_local_session(trainer).runtime._on_event = events.append
    trainer.train()
    return trainer, [event.text for event in events if type(event).__name__ == "Note"]


def order(seed: int = 42) -> list[int]:
    return torch.randperm(24, generator=torch.Generator().manual_seed(seed)).tolist()


def test_the_first_nan_names_module_and_samples(tmp_path: Path) -> None:
    _, notes = train(tmp_path)
    step = order().index(BAD) // 4
    samples = ", ".join(map(str, order()[4 * step : 4 * step + 4]))
    traced = [text for text in notes if "first module" in text]
    assert len(traced) == 1
    assert traced[0].startswith(f"The loss of step {step + 1} on rank 0 is ")
    assert "is divide (Divide): 2 of 8 values, from finite inputs and weights." in traced[0]
    assert traced[0].endswith(f"Its samples in the training data: {samples}.")


def test_nan_is_logged_as_nan(tmp_path: Path) -> None:
    trainer, _ = train(tmp_path, logging_steps=1)
    losses = [log["loss"] for log in trainer.state.log_history if "loss" in log]
    assert torch.tensor(losses[order().index(BAD) // 4]).isfinite().logical_not()


def test_looking_for_the_module_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from raytrainer.loop import step

    torch.manual_seed(0)
    first = Fragile()
    states = first.state_dict()
    second = Fragile()
    second.load_state_dict(states)
    looked, notes = train(tmp_path / "a", first)
    drawn = torch.rand(3)
    assert any("first module" in text for text in notes)
    monkeypatch.setattr(step, "check_loss", lambda *args: None)
    blind, notes = train(tmp_path / "b", second)
    assert not any("first module" in text for text in notes)
    assert torch.equal(drawn, torch.rand(3))
    for name, value in blind.model.state_dict().items():
        assert torch.equal(torch.nan_to_num(looked.model.state_dict()[name]), torch.nan_to_num(value)), name


def test_a_parameter_that_is_not_finite_is_named(tmp_path: Path) -> None:
    model = Fragile()
    with torch.no_grad():
        model.first.bias[0] = float("nan")
    _, notes = train(tmp_path, model)
    assert any("is first (Linear): 4 of 8 values, because its bias is not finite." in text for text in notes)


def test_debug_stops_at_the_first_module_though_the_loss_is_finite(tmp_path: Path) -> None:
    trainer, notes = train(tmp_path / "a", Fragile(hides_it=True))
    assert trainer.state.global_step == 6
    assert notes == []
    with pytest.raises(
        ValueError, match=r"underflow_overflow', step \d, rank 0: .* is divide \(Divide\).*samples"
    ):
        train(tmp_path / "b", Fragile(hides_it=True), debug="underflow_overflow")


def test_debug_leaves_no_hook_behind(tmp_path: Path) -> None:
    model = Fragile(hides_it=True)
    with pytest.raises(ValueError, match="underflow_overflow"):
        train(tmp_path, model, debug="underflow_overflow")
    assert all(not module._forward_hooks for module in model.modules())


def test_a_failing_callback_is_named_with_its_event(tmp_path: Path) -> None:
    import transformers

    class Mine(transformers.TrainerCallback):
        def on_substep_end(self, *args: Any, **kwargs: Any) -> None:
            raise KeyError("gone")

    trainer = raytrainer.Trainer(
        model=Fragile(),
        args=make_args(raytrainer, tmp_path, max_steps=1, gradient_accumulation_steps=2),
        train_dataset=[{"x": torch.zeros(1), "labels": torch.tensor(0.5)}] * 8,
        callbacks=[Mine()],
    )
    with pytest.raises(KeyError) as caught:
        trainer.train()
    assert any("Mine in on_substep_end" in note for note in caught.value.__notes__)
