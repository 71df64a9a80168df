"""A run that goes on from a checkpoint ends with the bits of one that was not interrupted, dropout included."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import raytrainer
from tests.gpu.twins import assert_trained, make_gpu_trainer, weights
from tests.parity.twins import make_model, rows

OPTIONS: dict[str, Any] = {
    "max_steps": 10,
    "save_strategy": "steps",
    "save_steps": 4,
    "bf16": True,
    "optim": "adamw_torch_fused",
    "gradient_accumulation_steps": 2,
}


@pytest.fixture
def deterministic_kernels() -> Iterator[None]:
    """Leave no switch of ``full_determinism`` on."""
    before = torch.backends.cudnn.benchmark
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = False, before


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_resumed_run_has_the_same_bits(precision: str, tmp_path: Path) -> None:
    options = {**OPTIONS, "bf16": False, **({} if precision == "fp32" else {precision: True})}
    whole = make_gpu_trainer(raytrainer, tmp_path, **options)
    whole.train()
    assert_trained(whole)
    without = make_gpu_trainer(raytrainer, tmp_path / "without", model=make_model(dropout=0.0), **options)
    without.train()
    assert rows(without)[0][1] != rows(whole)[0][1], "dropout did nothing"
    resumed = make_gpu_trainer(raytrainer, tmp_path, **options)
    torch.cuda.manual_seed_all(99)  # what the checkpoint holds must replace this
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert [row[0] for row in rows(resumed)][-6:] == [5, 6, 7, 8, 9, 10]
    assert rows(resumed)[-6:] == rows(whole)[-6:]
    for name, value in weights(whole).items():
        assert torch.equal(weights(resumed)[name], value), name


@pytest.mark.usefixtures("deterministic_kernels")
def test_full_determinism_gives_the_same_bits_twice(tmp_path: Path) -> None:
    runs = []
    for name in ("first", "second"):
        trainer = make_gpu_trainer(
            raytrainer, tmp_path / name, **{**OPTIONS, "save_strategy": "no", "full_determinism": True}
        )
        assert torch.are_deterministic_algorithms_enabled()
        trainer.train()
        assert_trained(trainer)
        runs.append(trainer)
    assert rows(runs[0]) == rows(runs[1])
    for name, value in weights(runs[0]).items():
        assert torch.equal(weights(runs[1])[name], value), name
