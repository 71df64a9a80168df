"""On a Ray worker with a GPU the losses are those of one process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import transformers

import raytrainer
from tests.gpu.twins import make_gpu_trainer
from tests.parity.twins import rows

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_cluster")]


class Where(transformers.TrainerCallback):
    """Writes down where the worker trains."""

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        import torch.distributed as dist

        device = next(kwargs["model"].parameters()).device
        Path(args.output_dir, "where.txt").write_text(f"{device.type} {dist.get_backend()} {args.world_size}")


def test_a_worker_trains_on_its_gpu_as_one_process_does(tmp_path: Path) -> None:
    alone = make_gpu_trainer(raytrainer, tmp_path / "alone", max_steps=6)
    alone.train()
    on_ray = make_gpu_trainer(
        raytrainer, tmp_path / "ray", max_steps=6, num_ranks=1, use_gpu=True, callbacks=[Where()]
    )
    on_ray.train()
    assert (tmp_path / "ray" / "where.txt").read_text() == "cuda nccl 1"
    assert rows(on_ray) == pytest.approx(rows(alone), abs=1e-6)
