"""GaLore: the projection, its state, and equality with the paper's sums and with galore-torch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raytrainer.optim.algorithms.galore import GaLore
from raytrainer.optim.algorithms.galore_projection import PROJECTION, project, project_back, projection_of


def adamw(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=0.01, betas=(0.9, 0.99), eps=1e-8)


def galore(
    weight: torch.nn.Parameter, rank: int, *, gap: int = 2, scale: float = 1.0, decay: float = 0.0
) -> GaLore:
    group = {"params": [weight], "lr": 0.01, "weight_decay": decay}
    return GaLore([{**group, "rank": rank, "update_proj_gap": gap, "scale": scale, "side": "std"}], adamw)


@pytest.mark.parametrize("shape", [(12, 8), (8, 12)])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_each_step_is_that_of_the_papers_algorithm(shape: tuple[int, int], decay: float) -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(shape))
    optimizer = galore(weight, 3, scale=0.25, decay=decay)
    expected = weight.detach().clone().double()
    first = second = torch.zeros(())
    is_tall = shape[0] >= shape[1]
    for step in range(5):
        gradient = torch.randn(shape)
        weight.grad = gradient.clone()
        optimizer.step()
        if step % 2 == 0:
            u, _, v = torch.linalg.svd(gradient, full_matrices=False)
            basis = v[:3].double() if is_tall else u[:, :3].double()
        small = gradient.double() @ basis.t() if is_tall else basis.t() @ gradient.double()
        first = 0.9 * first + 0.1 * small
        second = 0.99 * second + 0.01 * small**2
        corrected = (first / (1 - 0.9 ** (step + 1))) / ((second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8)
        back = corrected @ basis if is_tall else basis @ corrected
        expected = (expected - 0.01 * 0.25 * back) * (1 - 0.01 * decay)
        assert torch.allclose(weight.detach().double(), expected, atol=1e-6)


def test_of_full_rank_sgd_is_plain_sgd() -> None:
    torch.manual_seed(0)
    start = torch.randn(6, 4)
    mine, plain = (torch.nn.Parameter(start.clone()) for _ in range(2))
    group = {"params": [mine], "lr": 0.1, "weight_decay": 0.0, "rank": 9}
    optimizer = GaLore(
        [{**group, "update_proj_gap": 1, "scale": 1.0, "side": "std"}],
        lambda groups: torch.optim.SGD(groups, lr=0.1),
    )
    reference = torch.optim.SGD([plain], lr=0.1)
    for _ in range(3):
        mine.grad = torch.randn(6, 4)
        plain.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
    assert torch.allclose(mine, plain, atol=1e-5)


@pytest.mark.parametrize("from_right", [True, False])
def test_a_gradient_of_low_rank_survives_the_projection(from_right: bool) -> None:
    torch.manual_seed(0)
    gradient = torch.randn(10, 2) @ torch.randn(2, 7)
    basis = projection_of(gradient, 2, from_right=from_right)
    small = project(gradient, basis, from_right=from_right)
    assert small.numel() == (20 if from_right else 14)
    assert torch.allclose(project_back(small, basis, from_right=from_right), gradient, atol=1e-4)


def test_the_state_is_that_of_the_small_matrix_and_the_projection_and_is_found_anew_after_the_gap() -> None:
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(64, 32))
    optimizer = galore(weight, 4, gap=2)
    seen = []
    for _ in range(4):
        weight.grad = torch.randn(64, 32)
        optimizer.step()
        seen.append(optimizer.state[weight][PROJECTION].clone())
    state = optimizer.state[weight]
    assert {key: tuple(value.shape) for key, value in state.items() if isinstance(value, torch.Tensor)} == {
        "step": (),
        "exp_avg": (64, 4),
        "exp_avg_sq": (64, 4),
        PROJECTION: (4, 32),
    }
    assert torch.equal(seen[0], seen[1])
    assert not torch.equal(seen[1], seen[2])
    assert torch.equal(seen[2], seen[3])


def test_the_steps_are_those_of_galore_torch_up_to_where_epsilon_stands() -> None:
    reference_class = pytest.importorskip("galore_torch.adamw").AdamW
    torch.manual_seed(0)
    start = torch.randn(16, 8)
    mine, other = (torch.nn.Parameter(start.clone()) for _ in range(2))
    optimizer = galore(mine, 4, scale=0.25)
    reference = reference_class(
        [{"params": [other], "rank": 4, "update_proj_gap": 2, "scale": 0.25, "proj_type": "std"}],
        lr=0.01,
        betas=(0.9, 0.99),
        eps=1e-8,
        no_deprecation_warning=True,
    )
    for _ in range(6):
        mine.grad = torch.randn(16, 8)
        other.grad = mine.grad.clone()
        optimizer.step()
        reference.step()
        assert torch.allclose(mine, other, atol=1e-6)
