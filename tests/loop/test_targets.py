"""What has no target has no loss: it is left out of means, and its samples are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import nn

import raytrainer
from raytrainer.driver.entry_points import open_local_session
from raytrainer.telemetry.events import Note
from tests.parity.twins import LIBRARIES, TOLERANCE, make_args, make_model, make_samples, rows

pytestmark = pytest.mark.timeout(60)


def samples_without_targets(*which: int) -> list[dict[str, torch.Tensor]]:
    samples = make_samples(32)
    for index in which:
        samples[index]["labels"][:] = -100
    return samples


def make(
    directory: Path,
    samples: Any,
    *,
    library: Any = raytrainer,
    function: Any = None,
    kind: Any = None,
    **options: Any,
) -> Any:
    return (kind or library.Trainer)(
        model=make_model(dropout=0.0),
        args=make_args(
            library,
            directory,
            **{"max_steps": 4, "train_sampling_strategy": "sequential", "optim": "sgd", **options},
        ),
        train_dataset=samples,
        compute_loss_func=function,
    )


def train(trainer: Any, *, resume: bool = False) -> tuple[Any, list[str]]:
    """Train; return the result and the notes."""
    events: list[Any] = []
    open_local_session(trainer).runtime._on_event = events.append
    output = trainer.train(resume_from_checkpoint=resume)
    return output, [event.text for event in events if isinstance(event, Note)]


def mean_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    return nn.functional.cross_entropy(outputs["logits"][:, :-1].flatten(0, 1), labels[:, 1:].flatten())


def masked_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """A mean whose gradients over nothing are NaN."""
    mask = labels[:, 1:] != -100
    chosen = outputs["logits"].log_softmax(-1)[:, :-1].gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0]
    return -(chosen * mask).sum() / mask.sum()


def test_a_step_without_a_target_is_left_out_of_the_mean_and_its_samples_are_named(tmp_path: Path) -> None:
    ours, theirs = (
        make(tmp_path / name, samples_without_targets(8, 9, 10, 11), library=library)
        for name, library in LIBRARIES.items()
    )
    output, notes = train(ours)
    theirs.train()
    assert [row[1] for row in rows(ours)][2] == 0.0
    for mine, other in zip(rows(ours), rows(theirs), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    real = [row[1] for row in rows(ours) if row[0] != 3]
    assert output.training_loss == pytest.approx(sum(real) / 3, abs=TOLERANCE)
    assert notes[0].startswith(
        "In step 3 on rank 0, 1 of 1 micro-batches have no target: all of their labels are -100."
    )
    assert "Their samples in the training data: 8, 9, 10, 11." in notes[0]
    assert notes[1:] == ["1 of 4 steps had no target; train_loss is the mean over the others."]


def test_a_window_of_logs_is_the_mean_over_its_steps_with_a_target(tmp_path: Path) -> None:
    every = make(tmp_path / "every", samples_without_targets(8, 9, 10, 11))
    train(every)
    whole = make(tmp_path / "whole", samples_without_targets(8, 9, 10, 11), logging_steps=4)
    output, _ = train(whole)
    losses = [row[1] for row in rows(every)]
    assert rows(whole)[0][1] == pytest.approx((losses[0] + losses[1] + losses[3]) / 3, abs=TOLERANCE)
    assert output.training_loss == pytest.approx(rows(whole)[0][1], abs=TOLERANCE)


@pytest.mark.parametrize("function", [mean_loss, masked_loss])
def test_a_micro_batch_without_a_target_changes_nothing_for_the_others(function: Any, tmp_path: Path) -> None:
    with_empty = make(
        tmp_path / "empty",
        samples_without_targets(2, 3),
        function=function,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=4,
        max_steps=1,
    )
    _, notes = train(with_empty)
    samples = make_samples(32)
    without = make(
        tmp_path / "without",
        samples[:2] + samples[4:8],
        function=function,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=3,
        max_steps=1,
    )
    train(without)
    assert rows(with_empty)[0][:4] == pytest.approx(rows(without)[0][:4], abs=TOLERANCE)
    for name, value in without.model.state_dict().items():
        assert torch.allclose(with_empty.model.state_dict()[name], value, rtol=0, atol=TOLERANCE), name
    (note,) = notes
    assert "1 of 4 micro-batches have no target" in note
    assert "Their samples in the training data: 2, 3." in note


def test_a_micro_batch_without_a_target_is_no_news_where_others_of_its_step_have_some(tmp_path: Path) -> None:
    samples = samples_without_targets(2, 3)
    parts = make(tmp_path / "p", samples, per_device_train_batch_size=2, gradient_accumulation_steps=4)
    _, notes = train(parts)
    assert notes == []
    whole = make(tmp_path / "w", samples, per_device_train_batch_size=8)
    train(whole)
    for one, other in zip(rows(parts), rows(whole), strict=True):
        assert one[:4] == pytest.approx(other[:4], abs=2e-6)


def test_a_step_of_means_without_any_target_is_left_out(tmp_path: Path) -> None:
    trainer = make(tmp_path, samples_without_targets(4, 5, 6, 7), function=masked_loss)
    output, notes = train(trainer)
    losses = [row[1] for row in rows(trainer)]
    assert losses[1] == 0.0
    assert output.training_loss == pytest.approx((losses[0] + losses[2] + losses[3]) / 3, abs=TOLERANCE)
    assert all(bool(value.isfinite().all()) for value in trainer.model.state_dict().values())
    assert "samples in the training data: 4, 5, 6, 7." in notes[0]


def test_a_loss_that_is_no_number_for_another_reason_is_reported_as_before(tmp_path: Path) -> None:
    def bad(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
        return mean_loss(outputs, labels) * float("nan")

    output, notes = train(make(tmp_path, make_samples(32), function=bad))
    assert output.training_loss != output.training_loss
    assert any("is not finite" in text for text in notes)


def test_the_mean_is_the_same_after_a_resume_within_a_window(tmp_path: Path) -> None:
    options = {"logging_steps": 4, "save_strategy": "steps", "save_steps": 3}
    samples = samples_without_targets(4, 5, 6, 7)
    whole = make(tmp_path / "whole", samples, **options)
    train(whole)

    class StopAt3(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            control.should_training_stop |= state.global_step == 3

    cut = make(tmp_path / "cut", samples, **options)
    cut.add_callback(StopAt3())
    first, _ = train(cut)
    resumed = make(tmp_path / "cut", samples, **options)
    second, _ = train(resumed, resume=True)
    assert rows(resumed)[-1] == pytest.approx(rows(whole)[-1], abs=TOLERANCE)
    assert (first.training_loss * 2 + second.training_loss) / 3 == pytest.approx(
        rows(whole)[0][1], abs=TOLERANCE
    )


def test_labels_that_are_numbers_are_targets_even_at_minus_100(tmp_path: Path) -> None:
    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(1, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"loss": (self.layer(x)[:, 0] - labels).pow(2).mean()}

    trainer = raytrainer.Trainer(
        model=Linear(),
        args=make_args(raytrainer, tmp_path, max_steps=1),
        train_dataset=[{"x": torch.ones(1), "labels": torch.tensor(-100.0)}] * 4,
    )
    _, notes = train(trainer)
    assert notes == []
    assert rows(trainer)[0][1] > 1000
