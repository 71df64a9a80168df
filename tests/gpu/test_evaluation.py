"""Evaluation and prediction on a GPU give the numbers of ``transformers``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu.twins import make_gpu_trainer
from tests.parity.twins import LIBRARIES, make_samples


@pytest.mark.parametrize("options", [{}, {"bf16_full_eval": True}], ids=["fp32", "bf16"])
def test_loss_and_predictions_are_those_of_transformers(options: dict[str, Any], tmp_path: Path) -> None:
    losses, predictions = {}, {}
    samples = make_samples(10)
    for name, library in LIBRARIES.items():
        trainer = make_gpu_trainer(
            library, tmp_path / name, max_steps=2, per_device_eval_batch_size=10, **options
        )
        trainer.train()
        losses[name] = trainer.evaluate(samples)["eval_loss"]
        predictions[name] = trainer.predict(samples).predictions
    assert losses["ours"] == pytest.approx(losses["theirs"], abs=1e-6)
    assert predictions["ours"].shape == (10, 16, 100)
    assert np.allclose(predictions["ours"], predictions["theirs"], rtol=0, atol=1e-6)
