"""A step without any target has no loss on a GPU either, and its samples are named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import raytrainer
from raytrainer.driver.entry_points import open_local_session
from raytrainer.telemetry.events import Note
from tests.gpu.test_synchronization import Forbidden, make_masked_samples, make_silent_model
from tests.gpu.twins import make_gpu_trainer, weights
from tests.parity.twins import rows

EMPTY = range(16, 20)
"""The samples of the fifth micro-batch."""


def masked_loss(outputs: Any, labels: torch.Tensor) -> torch.Tensor:
    """A mean whose loss and gradients over nothing are NaN."""
    mask = labels[:, 1:] != -100
    chosen = outputs["logits"].log_softmax(-1)[:, :-1].gather(-1, labels[:, 1:, None].clamp(min=0))[..., 0]
    return -(chosen * mask).sum() / mask.sum()


def make_samples_without_some() -> list[dict[str, torch.Tensor]]:
    samples = make_masked_samples()
    for index in EMPTY:
        samples[index] = {**samples[index], "labels": torch.full_like(samples[index]["labels"], -100)}
    return samples


def make(directory: Path, **options: Any) -> Any:
    return make_gpu_trainer(
        raytrainer,
        directory,
        model=make_silent_model(),
        samples=make_samples_without_some(),
        compute_loss_func=masked_loss,
        max_steps=8,
        train_sampling_strategy="sequential",
        **options,
    )


def test_it_is_left_out_and_named(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    events: list[Any] = []
    open_local_session(trainer).runtime._on_event = events.append
    trainer.train()
    losses = [row[1] for row in rows(trainer)]
    assert losses[4] == 0.0
    assert all(loss > 0 for loss in losses[:4] + losses[5:])
    assert all(bool(value.isfinite().all()) for value in weights(trainer).values())
    notes = [event.text for event in events if isinstance(event, Note)]
    assert "In step 5 on rank 0, 1 of 1 micro-batches have no target" in notes[0]
    assert "samples in the training data: 16, 17, 18, 19." in notes[0]


def test_it_is_found_without_waiting_for_the_gpu(tmp_path: Path) -> None:
    forbidden = Forbidden()
    trainer = make(tmp_path, logging_steps=10, callbacks=[forbidden])
    try:
        trainer.train()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert forbidden.was_on
    assert all(bool(value.isfinite().all()) for value in weights(trainer).values())
