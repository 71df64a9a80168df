"""On a GPU the same seed gives the losses, gradient norms, rates and weights of ``transformers.Trainer``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.gpu.twins import Probe, assert_trained, furthest, make_gpu_trainer, weights
from tests.parity.twins import LIBRARIES, rows

PRECISIONS: dict[str, tuple[dict[str, Any], torch.dtype]] = {
    "fp32": ({}, torch.float32),
    "bf16": ({"bf16": True}, torch.bfloat16),
    "fp16": ({"fp16": True}, torch.float16),
}
TOLERANCE = 1e-6
"""Both run the same kernels in the same order."""


def train_both(directory: Path, **options: Any) -> tuple[dict[str, Any], dict[str, Probe]]:
    trainers, probes = {}, {}
    for name, library in LIBRARIES.items():
        probes[name] = Probe()
        trainers[name] = make_gpu_trainer(library, directory / name, callbacks=[probes[name]], **options)
        trainers[name].train()
    return trainers, probes


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_numbers_are_those_of_transformers(precision: str, optimizer: str, tmp_path: Path) -> None:
    options, dtype = PRECISIONS[precision]
    trainers, probes = train_both(
        tmp_path, max_steps=12, gradient_accumulation_steps=2, optim=optimizer, **options
    )
    for name, trainer in trainers.items():
        assert probes[name].devices == {"cuda"}
        assert probes[name].dtypes == {dtype}
        assert (trainer.accelerator.scaler is not None) == (precision == "fp16")
        assert {value.dtype for value in trainer.model.parameters()} == {torch.float32}
        raw = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
        assert bool(raw.param_groups[0]["fused"]) == optimizer.endswith("fused")
        assert_trained(trainer)
    ours, theirs = trainers["ours"], trainers["theirs"]
    for mine, other in zip(rows(ours), rows(theirs), strict=True):
        assert mine == pytest.approx(other, abs=TOLERANCE)
    assert furthest(weights(ours), weights(theirs)) <= TOLERANCE


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
def test_steps_that_overflow_in_fp16_are_skipped_as_in_transformers(optimizer: str, tmp_path: Path) -> None:
    def too_large(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        logits = outputs["logits"][:, :-1].float()
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", ignore_index=-100
        )
        return total / num_items_in_batch * 2000

    trainers, _ = train_both(
        tmp_path,
        max_steps=12,
        optim=optimizer,
        fp16=True,
        max_grad_norm=0.0,
        learning_rate=1e-3,
        compute_loss_func=too_large,
    )
    scales = {name: trainer.accelerator.scaler.get_scale() for name, trainer in trainers.items()}
    assert scales["ours"] < 2.0**16, "no step has overflowed"
    assert scales["ours"] == scales["theirs"]
    ours, theirs = trainers["ours"], trainers["theirs"]
    assert [row[3] for row in rows(ours)] == pytest.approx([row[3] for row in rows(theirs)])
    assert_trained(ours)
    assert furthest(weights(ours), weights(theirs)) <= TOLERANCE
