"""What was prepared before training is prepared on the ranks of Ray and of torchrun."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.backends.distilling import before_training, make_distilling
from tests.torchrun import torchrun

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]

ON_A_RANK = {
    "teacher is prepared": True,
    "nested": True,
    "beside": "DistributedDataParallel",
    "late": False,
    "ranks": [0, 1],
    "early is bound": True,
    "batches": 3,
}


def test_on_ray_it_is_prepared_on_the_workers(tmp_path: Path) -> None:
    trainer = make_distilling(tmp_path, num_ranks=2)
    assert before_training(trainer) == {
        "is main": True,
        "processes": 2,
        "batches": 6,
        "gathered": [0],
        "joined": False,
    }
    assert type(trainer.beside).__name__ == "Linear"
    trainer.train()
    assert trainer.seen == ON_A_RANK
    assert trainer.early is trainer.accelerator, "it came back as the driver's own"
    assert not hasattr(trainer, "beside"), "a hook deleted it"
    trainer.late = trainer.accelerator.prepare_model(torch.nn.Linear(1, 1), evaluation_mode=True)
    trainer.evaluate()
    assert trainer.seen == {**ON_A_RANK, "beside": "NoneType", "late": True}
    trainer.end()


def test_under_torchrun_ranks_see_each_other_before_training(tmp_path: Path) -> None:
    target = tmp_path / "seen.json"
    found: dict[str, Any] = torchrun("backends/distilling.py", [str(target)], target=target)
    assert found["before"] == {
        "is main": True,
        "processes": 2,
        "batches": 3,
        "gathered": [0, 1],
        "joined": True,
    }
    assert found["order"] == [["first"], ["second"]], "main_process_first waits for the main process"
    assert found["seen"] == ON_A_RANK
