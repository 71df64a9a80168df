"""Two ranks, eleven samples, sequences of different lengths: each sample once, and equal on every backend."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import T5ForConditionalGeneration

import raytrainer
from tests.seq2seq.reversal import EOS, LIVELY, Pairs, make_trainer
from tests.torchrun import torchrun

pytestmark = pytest.mark.distributed
RUNS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2": {"fsdp": True},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def results(directory: Path) -> dict[str, Any]:
    target = directory / "results.json"
    return torchrun("seq2seq/rank.py", [str(target), json.dumps(RUNS)], target=target, timeout_s=240)


@pytest.mark.parametrize("backend", RUNS)
def test_each_sample_reaches_the_metric_once_and_in_order(results: dict[str, Any], backend: str) -> None:
    found = results[backend]
    assert found["backend"] == backend
    assert found["rows"] == [11, 11], "what fills up the last batch reached a metric"
    assert [row[:7] for row in found["labels"]] == [row["labels"].tolist() for row in Pairs(11).rows]


@pytest.mark.parametrize("backend", ["fsdp2", "zero3"])
def test_cut_parameters_write_what_whole_ones_do(results: dict[str, Any], backend: str) -> None:
    predictions = results["ddp"]["predictions"]
    lengths = {sum(token not in (0, EOS) for token in row) for row in predictions}
    assert len(lengths) > 2, "ranks end at different times"
    assert results[backend]["predictions"] == predictions
    assert results[backend]["loss"] == pytest.approx(results["ddp"]["loss"], abs=1e-5)


def test_one_process_writes_with_the_same_weights_what_two_ranks_do(
    results: dict[str, Any], directory: Path, tmp_path: Path
) -> None:
    model = T5ForConditionalGeneration.from_pretrained(directory / "ddp" / "model")
    alone = make_trainer(raytrainer, tmp_path, model=model, per_device_eval_batch_size=8)
    output = alone.predict(Pairs(11), **LIVELY)
    assert output.predictions.tolist() == results["ddp"]["predictions"]
    assert output.metrics["test_loss"] == pytest.approx(results["ddp"]["loss"], abs=1e-5)
