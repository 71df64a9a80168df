"""Two ranks: the metrics of one process, one spill file for both, and running out of memory on one affects both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raytrainer
from tests.parity.twins import make_args, make_model, make_samples
from tests.torchrun import torchrun


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    directory = tmp_path_factory.mktemp("ranks")
    target = directory / "found.json"
    return torchrun("evaluation/rank.py", [str(target)], target=target), directory


@pytest.mark.distributed
def test_two_ranks_evaluate_like_one_process(found: Any, tmp_path: Path) -> None:
    ranks, _ = found

    def metric(prediction: Any) -> dict[str, float]:
        logits = prediction.predictions
        return {"sum": float(logits.sum()), "rows": len(logits), "labels": float(prediction.label_ids.sum())}

    args = make_args(raytrainer, tmp_path, per_device_eval_batch_size=7)
    trainer = raytrainer.Trainer(
        model=make_model(), args=args, eval_dataset=make_samples(7), compute_metrics=metric
    )
    metrics = trainer.evaluate()
    expected = {key: metrics[f"eval_{key}"] for key in ("loss", "sum", "rows", "labels")}
    for rank in ranks:
        assert rank["evaluation"]["metrics"] == pytest.approx(expected, rel=1e-5)
        assert rank["evaluation"]["texts"] == [str(row["input_ids"][0].item()) for row in make_samples(7)]


@pytest.mark.distributed
def test_both_ranks_map_one_file_that_is_gone(found: Any) -> None:
    ranks, directory = found
    assert [rank["evaluation"]["is_mapped"] for rank in ranks] == [True, True]
    assert list((directory / "spill").glob("raytrainer-*")) == []


@pytest.mark.distributed
def test_one_ranks_lack_of_memory_makes_all_begin_again(found: Any) -> None:
    ranks, _ = found
    for rank in ranks:
        assert rank["fitting"]["sizes"] == [4, 4, 4, *[2] * 10]
        assert rank["fitting"]["rows"] == rank["fitting"]["expected"]
        assert rank["fitting"]["same_weights"]
