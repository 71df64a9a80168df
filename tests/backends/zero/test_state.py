"""Where the numbers of a restored optimizer go: to the device whose kernels read them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raytrainer.backends.zero.flat_runs import Home
from raytrainer.backends.zero.state import device_of_numbers


@pytest.mark.parametrize(
    ("group", "device"),
    [({"fused": True}, "meta"), ({"capturable": True}, "meta"), ({"fused": None}, "cpu"), ({}, "cpu")],
)
def test_a_count_of_steps_is_where_the_optimizer_reads_it(group: dict[str, Any], device: str) -> None:
    home = Home(flat=torch.empty(4, device="meta"), offset=0, start=0, numel=4)
    assert device_of_numbers(home, group).type == device
