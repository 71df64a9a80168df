"""A checkpoint of a CPU goes on on a GPU, and that of a GPU on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raytrainer
from tests.gpu.twins import make_gpu_trainer
from tests.parity.twins import make_model, rows


@pytest.mark.parametrize("optimizer", ["adamw_torch", "adamw_torch_fused"])
@pytest.mark.parametrize("begins_on_cpu", [True, False], ids=["from a CPU", "from a GPU"])
def test_a_run_goes_on_on_the_other_device(begins_on_cpu: bool, optimizer: str, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "max_steps": 8,
        "save_strategy": "steps",
        "save_steps": 4,
        "optim": optimizer,
    }

    def trainer_on(*, cpu: bool) -> Any:
        return make_gpu_trainer(raytrainer, tmp_path, model=make_model(dropout=0.0), use_cpu=cpu, **options)

    whole = trainer_on(cpu=begins_on_cpu)
    whole.train()
    other = trainer_on(cpu=not begins_on_cpu)
    other.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))
    assert other.model.device.type == ("cuda" if begins_on_cpu else "cpu")
    assert {value.device.type for value in other.optimizer.state[other.model.lm_head.weight].values()} <= (
        {"cuda"} if begins_on_cpu and optimizer.endswith("fused") else {"cuda", "cpu"}
    )
    for mine, before in zip(rows(other)[-4:], rows(whole)[-4:], strict=True):
        assert mine == pytest.approx(before, abs=1e-3, rel=1e-3)
