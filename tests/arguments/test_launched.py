"""Over what the ranks of a run are joined."""

from __future__ import annotations

from typing import Any

import pytest

import raytrainer
from raytrainer.arguments.launched import collective_backend


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
