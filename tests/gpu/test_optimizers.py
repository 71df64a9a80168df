"""Every optimizer whose package is installed trains on a GPU, and resumes with the same bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from raytrainer.optim import catalogue
from raytrainer.optim.traits import Entry
from tests.gpu.twins import Probe, furthest, make_gpu_trainer, weights
from tests.optim.test_catalogue import needs, options_of
from tests.parity.twins import make_model, rows

ADDS_IN_ANY_ORDER = {"stable_adamw"}
"""Their kernels sum with atomic additions, so two runs are not bitwise equal, resumed or not."""


@pytest.mark.parametrize("entry", catalogue.entries(), ids=lambda entry: entry.name)
def test_it_trains_and_resumes(entry: Entry, tmp_path: Path) -> None:
    needs(entry)
    probe = Probe()

    def make() -> Any:
        options: dict[str, Any] = options_of(entry, max_steps=8, save_strategy="steps", save_steps=4)
        return make_gpu_trainer(
            raytrainer, tmp_path, model=make_model(dropout=0.0), callbacks=[probe], **options
        )

    whole, resumed = make(), make()
    whole.train()
    assert probe.devices == {"cuda"}
    start, end = make_model().state_dict(), weights(whole)
    assert all(bool(torch.isfinite(value).all()) for value in end.values())
    assert any(not torch.equal(value, start[name]) for name, value in end.items())
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    if entry.name in ADDS_IN_ANY_ORDER:
        assert furthest(weights(resumed), end) < 1e-3
        return
    assert rows(resumed) == rows(whole)
    for name, value in end.items():
        assert torch.equal(weights(resumed)[name], value), name
