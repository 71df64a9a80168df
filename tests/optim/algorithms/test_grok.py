"""GrokAdamW: equality with its author's package, and the grokking signal."""

from __future__ import annotations

import pytest
import torch

from raytrainer.optim.algorithms.grok import GrokAdamW


@pytest.mark.parametrize("losses", [{}, {"train_loss": 1.0, "eval_loss": 4.0}])
@pytest.mark.filterwarnings("ignore")
def test_each_step_is_that_of_the_package(losses: dict[str, float]) -> None:
    package = pytest.importorskip("grokadamw")
    torch.manual_seed(0)
    mine = [torch.nn.Parameter(torch.randn(6, 4)), torch.nn.Parameter(torch.randn(4))]
    theirs = [torch.nn.Parameter(one.detach().clone()) for one in mine]
    common = {"lr": 0.01, "weight_decay": 0.1}
    optimizer = GrokAdamW([{"params": mine, **common, **losses}], betas=(0.9, 0.99), eps=1e-8)
    reference = package.GrokAdamW([{"params": theirs, **losses}], **common, betas=(0.9, 0.99), eps=1e-8)
    for _ in range(5):
        for one, other in zip(mine, theirs, strict=True):
            one.grad = 3 * torch.randn_like(one)
            other.grad = one.grad.clone()
        optimizer.step()
        reference.step()
        for one, other in zip(mine, theirs, strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-7)
