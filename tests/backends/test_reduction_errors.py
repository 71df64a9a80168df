"""An error of DDP about unused parameters names the argument and the parameters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from raytrainer.backends.reduction_errors import explain_reduction


class Partly(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frozen = nn.Linear(2, 2).requires_grad_(False)
        self.used, self.spare = nn.Linear(2, 2), nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.used(self.frozen(x)).sum()


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("group")
@pytest.mark.parametrize(
    ("asked", "why"), [(False, "ddp_find_unused_parameters=False says"), (None, "recomputed")]
)
def test_unused_parameters_are_named_with_the_argument(asked: bool | None, why: str) -> None:
    model = DistributedDataParallel(Partly(), find_unused_parameters=False)
    model(torch.ones(1, 2)).backward()
    with pytest.raises(RuntimeError, match="did not receive grad") as caught:
        model(torch.ones(1, 2)).backward()
    said = explain_reduction(caught.value, model, asked) or ""
    assert "spare.weight, spare.bias" in said
    assert "used.weight" not in said
    assert why in said
    assert "ddp_find_unused_parameters=True" in said
    assert explain_reduction(ValueError("of the user's"), model, asked) is None
