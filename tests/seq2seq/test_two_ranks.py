"""Two ranks, eleven samples, sequences that end at different times: each sample once, and the same on every backend."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.seq2seq.reversal import EOS, Pairs
from tests.torchrun import torchrun

pytestmark = pytest.mark.distributed
RUNS: dict[str, dict[str, Any]] = {
    "ddp": {},
    "fsdp2": {"fsdp": True},
    "zero3": {"deepspeed": {"zero_optimization": {"stage": 3}}},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    target = tmp_path_factory.mktemp("ranks") / "results.json"
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
