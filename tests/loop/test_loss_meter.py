"""The losses that are logged when some of them are NaN."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.parity.twins import LIBRARIES, make_args


class SometimesNaN(torch.nn.Module):
    """The loss of a sample is its value times a weight that never changes; NaN for a negative value."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1))

    def forward(self, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (labels * self.weight.detach()).mean() + 0 * self.weight.sum()
        return {"loss": torch.where((labels < 0).any(), torch.nan, loss)}


VALUES = [3.0, 1.0, -1.0, 2.0, -1.0, -1.0, 5.0, 7.0, -1.0, -1.0, -1.0, -1.0, 2.0, 4.0]


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_filtered_nan_counts_as_in_transformers_in_logs_and_in_the_final_mean(
    tmp_path: Path, accumulation: int
):
    logged: dict[str, list[float]] = {}
    for name, library in LIBRARIES.items():
        options: dict[str, Any] = {
            "logging_nan_inf_filter": True,
            "logging_steps": 3,
            "per_device_train_batch_size": 1,
            "gradient_accumulation_steps": accumulation,
            "num_train_epochs": 1,
            "train_sampling_strategy": "sequential",
            "optim": "sgd",
            "max_grad_norm": 0.0,
            "learning_rate": 0.0,
        }
        trainer = library.Trainer(
            model=SometimesNaN(),
            args=make_args(library, tmp_path / name, **options),
            train_dataset=[{"labels": torch.tensor(value)} for value in VALUES],
        )
        final = trainer.train().training_loss
        logged[name] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry] + [final]
    assert logged["ours"] == pytest.approx(logged["theirs"], abs=1e-6)
    assert all(map(math.isfinite, logged["ours"]))
    assert len({round(loss, 3) for loss in logged["ours"]}) > 2
