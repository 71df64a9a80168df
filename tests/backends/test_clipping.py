"""Gradients are clipped as torch clips them, to the last bit."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from raytrainer.backends.clipping import Clipping


def parameters(
    seed: int, scale: float, dtypes: tuple[torch.dtype, ...] = (torch.float32,)
) -> list[nn.Parameter]:
    """Twelve, of which one has no gradient."""
    generator = torch.Generator().manual_seed(seed)
    made: list[nn.Parameter] = []
    for index in range(12):
        one = nn.Parameter(torch.zeros(3 + index, 5, dtype=dtypes[index % len(dtypes)]))
        if index != 4:
            one.grad = (torch.randn(one.shape, generator=generator) * scale).to(one.dtype)
        made.append(one)
    return made


def clipped_by_torch(made: list[nn.Parameter], max_norm: float) -> torch.Tensor:
    return nn.utils.clip_grad_norm_(made, max_norm)


@pytest.mark.parametrize("scale", [1e-3, 0.05, 1.0, 1e6, float("inf"), float("nan")])
@pytest.mark.parametrize("max_norm", [1.0, 0.3, float("inf")])
@pytest.mark.parametrize("dtypes", [(torch.float32,), (torch.float64,), (torch.float32, torch.bfloat16)])
def test_gradients_and_norm_are_those_of_torch(
    scale: float, max_norm: float, dtypes: tuple[torch.dtype, ...]
) -> None:
    for seed in range(3):
        mine, theirs = parameters(seed, scale, dtypes), parameters(seed, scale, dtypes)
        found, expected = Clipping(mine).clip(max_norm), clipped_by_torch(theirs, max_norm)
        torch.testing.assert_close(found, expected, rtol=0, atol=0, equal_nan=True)
        for one, other in zip(mine, theirs, strict=True):
            if other.grad is None:
                assert one.grad is None
            else:
                torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0, equal_nan=True)


def test_parameters_of_one_kind_are_not_sorted_by_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *_: pytest.fail("torch was asked"))
    assert Clipping(parameters(0, 1.0)).clip(1.0) > 1


def test_short_gradients_on_the_cpu_are_not_written_to() -> None:
    made = parameters(0, 1e-3)
    versions = [one.grad._version for one in made if one.grad is not None]
    assert Clipping(made).clip(1.0) < 1
    assert [one.grad._version for one in made if one.grad is not None] == versions


def test_without_a_gradient_the_norm_is_zero() -> None:
    assert Clipping([nn.Parameter(torch.zeros(2))]).clip(1.0) == 0
