"""Compiled, and with Liger's kernels, a model trains on a GPU to the losses of the plain one."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

import raytrainer
from raytrainer.worker.kernels import is_compiled
from tests.gpu.twins import assert_trained, make_gpu_trainer
from tests.parity.twins import make_model, rows

TOLERANCE = 2e-3
"""Fused kernels round in another order; in fp32 and over few steps."""


def train(directory: Path, **options: Any) -> Any:
    trainer = make_gpu_trainer(raytrainer, directory, model=make_model(dropout=0.0), max_steps=6, **options)
    trainer.train()
    assert_trained(trainer)
    return trainer


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return train(tmp_path_factory.mktemp("plain"))


@pytest.mark.timeout(240)
def test_a_compiled_model_has_the_losses_of_the_plain_one(plain: Any, tmp_path: Path) -> None:
    compiled = train(tmp_path, torch_compile=True)
    assert is_compiled(compiled.model)
    for mine, other in zip(rows(compiled), rows(plain), strict=True):
        assert mine == pytest.approx(other, rel=TOLERANCE)


@pytest.mark.skipif(importlib.util.find_spec("liger_kernel") is None, reason="liger-kernel is not installed")
def test_a_model_with_ligers_kernels_has_the_losses_of_the_plain_one(plain: Any, tmp_path: Path) -> None:
    replaced = train(tmp_path, use_liger_kernel=True)
    classes = {type(module.forward.__self__).__module__ for module in replaced.model.modules()}
    origins = {module.forward.__func__.__module__ for module in replaced.model.modules()}
    assert any(name.startswith("liger_kernel") for name in classes | origins)
    for mine, other in zip(rows(replaced), rows(plain), strict=True):
        assert mine == pytest.approx(other, rel=TOLERANCE)
