"""A loss that is no number is named with its step at the next log; no step waits for the GPU to find it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import raytrainer
from tests.gpu.twins import make_gpu_trainer


class Poison(transformers.TrainerCallback):
    """Spoils a weight after the second step."""

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 2:
            with torch.no_grad():
                kwargs["model"].model.layers[1].mlp.up_proj.weight[0, 0] = float("nan")


def test_the_next_log_names_the_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    trainer = make_gpu_trainer(raytrainer, tmp_path, callbacks=[Poison()], max_steps=6, logging_steps=5)
    with caplog.at_level(logging.WARNING):
        trainer.train()
    assert "first at step 3 on rank 0" in caplog.text


def test_debugging_names_the_module(tmp_path: Path) -> None:
    trainer = make_gpu_trainer(
        raytrainer, tmp_path, callbacks=[Poison()], max_steps=6, debug="underflow_overflow"
    )
    with pytest.raises(ValueError, match=r"step 3, rank 0.*layers\.1\.mlp\.up_proj"):
        trainer.train()
