"""Shared fixtures of the argument tests."""

from __future__ import annotations

import pytest
import torch

from raytrainer.arguments import aliases
from raytrainer.arguments.placement import Placement


@pytest.fixture(autouse=True)
def forget_warnings() -> None:
    """Each test starts as if no deprecated name had been used in this process."""
    aliases._warned.clear()


@pytest.fixture
def on_cpu() -> Placement:
    return Placement(
        rank=0, local_rank=0, world_size=1, local_world_size=1, device=torch.device("cpu"), backend="gloo"
    )


@pytest.fixture
def second_of_two() -> Placement:
    return Placement(
        rank=1, local_rank=1, world_size=2, local_world_size=2, device=torch.device("cpu"), backend="gloo"
    )
