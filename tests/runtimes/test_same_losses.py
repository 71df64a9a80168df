"""The same script on Ray workers, in one process and under torchrun: the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.runtimes.trainers import make_trainer, numbers

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.ray, pytest.mark.timeout(150), pytest.mark.usefixtures("ray_cluster")]


def under_torchrun(kind: str, directory: Path) -> dict[str, Any]:
    target = directory / "numbers.json"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, str(ROOT / "tests" / "runtimes" / "rank.py"), kind, str(target)],
        check=False,
        timeout=120,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(target.read_text())


@pytest.mark.parametrize("kind", ["plain", "own_loss", "stream"])
def test_ray_torchrun_and_one_process_give_the_same_losses(kind: str, tmp_path: Path) -> None:
    launched = under_torchrun(kind, tmp_path)
    assert launched["world_size"] == 2
    assert launched["wrapper"] == "DistributedDataParallel"

    alone = make_trainer(kind, tmp_path / "alone", num_workers=0)
    alone.train()

    on_ray = make_trainer(kind, tmp_path / "ray", num_workers=2)
    on_ray.train()
    counter = on_ray.callback_handler.callbacks[-1]
    assert type(counter).__name__ == "Counter"
    assert counter.world_sizes == [2, 2, 2], "two ranks took part, and the callback's state came back"
    if kind == "own_loss":
        assert on_ray.num_calls > 0, "what rank 0 did to the trainer came back"

    assert numbers(on_ray) == launched["numbers"], "Ray and torchrun do the same arithmetic"
    assert len(numbers(alone)) == len(numbers(on_ray)) == 4
    for one, two in zip(numbers(alone), numbers(on_ray), strict=True):
        assert one == pytest.approx(two, abs=1e-6)
    assert launched["after_end"] == launched["numbers"][-1][-1], "a trainer that was ended still answers"
    on_ray.end()
