"""Loaders that give every rank the same samples are distinguished from those that do not; lengths on a driver."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import accelerate
import datasets
import pytest
from datasets.distributed import split_dataset_by_node
from torch.utils.data import DataLoader, DistributedSampler

import raytrainer
from raytrainer.data.undivided import is_divided
from tests.parity.twins import make_args, make_model, make_samples

ROWS = list(range(8))


def by_node() -> DataLoader[Any]:
    stream = datasets.Dataset.from_dict({"x": ROWS}).to_iterable_dataset(num_shards=2)
    return DataLoader(split_dataset_by_node(stream, rank=0, world_size=2))


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda: DataLoader(ROWS), False),
        (lambda: DataLoader(ROWS, shuffle=True), False),
        (lambda: [1, 2], False),
        (lambda: DataLoader(ROWS, sampler=DistributedSampler(ROWS, num_replicas=2, rank=0)), True),
        (lambda: accelerate.Accelerator(cpu=True).prepare(DataLoader(ROWS)), True),
        (by_node, True),
    ],
)
def test_a_loader_is_divided_if_something_in_it_takes_a_ranks_part(make: Any, expected: bool) -> None:
    assert is_divided(make()) is expected


@pytest.mark.parametrize(("num_workers", "expected"), [(0, 8), (2, 4), (4, 2)])
def test_on_a_driver_the_training_loader_is_as_long_as_that_of_a_worker(
    num_workers: int, expected: int, tmp_path: Path
) -> None:
    args = make_args(raytrainer, tmp_path, num_ranks=num_workers, per_device_eval_batch_size=4)
    trainer = raytrainer.Trainer(
        model=make_model(), args=args, train_dataset=make_samples(32), eval_dataset=make_samples(32)
    )
    assert len(trainer.get_train_dataloader()) == expected
    assert len(trainer.get_eval_dataloader()) == 8


def test_before_it_trains_a_rank_of_a_launcher_evaluates_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    args = make_args(raytrainer, tmp_path, per_device_eval_batch_size=4)
    trainer = raytrainer.Trainer(model=make_model(), args=args, eval_dataset=make_samples(32))
    assert len(trainer.get_eval_dataloader()) == 8
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "2" if name == "WORLD_SIZE" else "1")
    assert len(trainer.get_eval_dataloader()) == 4
