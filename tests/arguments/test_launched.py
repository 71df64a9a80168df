"""Over what the ranks of a run are joined, and how they leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import raytrainer
from raytrainer.arguments.launched import collective_backend
from tests.torchrun import torchrun

WORK_S = 2.0
"""How long rank 0 of leaving.py works [s]."""


@pytest.mark.parametrize(
    ("options", "use_gpu", "backend"),
    [
        ({}, False, "gloo"),
        ({}, True, "nccl"),
        ({"fsdp": True}, True, "nccl"),
        ({"fsdp": "full_shard offload"}, True, "cpu:gloo,cuda:nccl"),
        ({"fsdp": "full_shard offload"}, False, "gloo"),
        ({"ddp_backend": "gloo"}, True, "gloo"),
    ],
)
def test_the_backend_reaches_every_device_that_tensors_are_on(
    options: dict[str, Any], use_gpu: bool, backend: str
) -> None:
    args = raytrainer.TrainingArguments(report_to="none", **options)
    assert collective_backend(args, use_gpu=use_gpu) == backend


@pytest.mark.distributed
def test_a_rank_that_is_done_leaves_when_the_others_are_done_too(tmp_path: Path) -> None:
    torchrun("arguments/leaving.py", [str(tmp_path)], target=tmp_path / "target.json", timeout_s=100)
    at = {path.name: float(path.read_text()) for path in tmp_path.glob("*-*")}
    assert at["done-0"] > at["done-1"] + WORK_S / 2, "rank 1 is done first"
    assert at["ended-1"] >= at["done-0"]
    assert abs(at["ended-1"] - at["ended-0"]) < WORK_S / 2
