"""The same script on Ray workers, in one process and under torchrun: the same losses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from raytrainer.telemetry.startup import TRACE_NAME, read_spans
from tests.runtimes.trainers import KINDS, make_trainer, numbers
from tests.torchrun import torchrun

pytestmark = [pytest.mark.ray, pytest.mark.timeout(240), pytest.mark.usefixtures("ray_cluster")]


@pytest.fixture(scope="module")
def under_torchrun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Kind of trainer -> results of rank 0 of two."""
    target = tmp_path_factory.mktemp("launched") / "numbers.json"
    return torchrun("runtimes/rank.py", [str(target)], target=target)


@pytest.mark.parametrize("kind", KINDS)
def test_ray_torchrun_and_one_process_give_the_same_losses(
    under_torchrun: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    launched = under_torchrun[kind]
    assert launched["world_size"] == 2
    assert launched["wrapper"] == "DistributedDataParallel"

    alone = make_trainer(kind, tmp_path / "alone", num_workers=0)
    alone.train()

    on_ray = make_trainer(kind, tmp_path / "ray", num_workers=2)
    on_ray.train()
    counter = on_ray.callback_handler.callbacks[-2]  # the last one is the terminal's
    assert type(counter).__name__ == "Counter"
    assert counter.world_sizes == [2, 2, 2], "two ranks took part, and the callback's state came back"
    assert counter.is_deterministic == counter.had_variables_at_first == (kind == "stream")
    if kind == "plain":
        found = {(span.process, span.phase) for span in read_spans(tmp_path / "ray")}
        assert {("driver", "joins Ray"), ("rank 0", "first step"), ("rank 1", "first step")} <= found
        assert (tmp_path / "ray" / TRACE_NAME).exists()
    if kind == "own_loss":
        assert on_ray.num_calls > 0, "what rank 0 did to the trainer came back"

    assert numbers(on_ray) == launched["numbers"], "Ray and torchrun do the same arithmetic"
    assert len(numbers(alone)) == len(numbers(on_ray)) == 4
    for one, two in zip(numbers(alone), numbers(on_ray), strict=True):
        assert one == pytest.approx(two, abs=1e-6)
    assert launched["after_end"] == launched["numbers"][-1][-1], "a trainer that was ended still answers"
    on_ray.end()
