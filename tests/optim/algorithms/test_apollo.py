"""APOLLO: equality with apollo-torch step by step, and its seeds."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raytrainer.optim.algorithms import apollo
from raytrainer.optim.algorithms.apollo import SEED, Apollo

LOW = {"rank": 3, "update_proj_gap": 2, "scale": 4.0, "proj": "random", "scale_type": "channel"}


def weights(shape: tuple[int, int]) -> list[torch.nn.Parameter]:
    torch.manual_seed(0)
    return [torch.nn.Parameter(torch.randn(shape)), torch.nn.Parameter(torch.randn(5))]


def optimizer_of(parameters: list[torch.nn.Parameter], **changes: Any) -> Apollo:
    common = {"lr": 0.01, "weight_decay": 0.1}
    groups = [
        {"params": parameters[1:], **common},
        {"params": parameters[:1], **common, **LOW, "side": "std", **changes},
    ]
    return Apollo(groups, betas=(0.9, 0.99), eps=1e-6)


@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
@pytest.mark.parametrize("scale_type", ["channel", "tensor"])
@pytest.mark.parametrize("proj", ["random", "svd"])
def test_each_step_is_that_of_apollo_torch(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], scale_type: str, proj: str
) -> None:
    package = pytest.importorskip("apollo_torch")
    projector = pytest.importorskip("apollo_torch.random_projector")
    monkeypatch.setattr(projector, "next_seed", apollo.next_seed)
    mine, theirs = weights(shape), weights(shape)
    low = {**LOW, "scale_type": scale_type, "proj": proj, "proj_type": "std"}
    reference = package.APOLLOAdamW(
        [{"params": theirs[1:]}, {"params": theirs[:1], **low}],
        lr=0.01,
        betas=(0.9, 0.99),
        eps=1e-6,
        weight_decay=0.1,
    )
    optimizer = optimizer_of(mine, scale_type=scale_type, proj=proj)
    for step in range(6):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = torch.randn_like(one) * (1 + 5 * step)
            other.grad = one.grad.clone()
        optimizer.step()
        reference.step()
        for one, other in zip(mine, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7), step


def test_a_projection_is_renewed_after_its_gap_and_not_before() -> None:
    parameters = weights((12, 8))
    optimizer, seeds = optimizer_of(parameters), []
    for _ in range(5):
        for one in parameters:
            one.grad = torch.randn_like(one)
        optimizer.step()
        seeds.append(optimizer.state[parameters[0]][SEED])
    assert seeds[0] == seeds[1] != seeds[2] == seeds[3] != seeds[4]


def test_no_projection_and_no_whole_matrix_is_kept() -> None:
    parameters = weights((12, 8))
    optimizer = optimizer_of(parameters)
    parameters[0].grad = torch.randn(12, 8)
    optimizer.step()
    state = optimizer.state[parameters[0]]
    assert sorted(tuple(v.shape) for v in state.values() if isinstance(v, torch.Tensor)) == [
        (),
        (12, 3),
        (12, 3),
    ]


def test_the_norm_of_a_step_grows_by_one_percent_at_most() -> None:
    state: dict[str, Any] = {}
    norms = [float(apollo.limit_growth(torch.full((4,), size), state).norm()) for size in (1.0, 10.0, 0.5)]
    assert norms == pytest.approx([2.0, 2.02, 1.0])
