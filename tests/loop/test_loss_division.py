"""A watched count knows whether its value was used."""

from __future__ import annotations

import pytest
import torch

from raytrainer.loop.loss_division import WatchedCount


@pytest.mark.parametrize(
    "look",
    [
        lambda count: count.shape,
        lambda count: count.device,
        torch.is_floating_point,
        lambda count: count.numel(),
        lambda count: count.to("cpu"),
        lambda count: count.detach().contiguous(),
        lambda count: count > 0,
        lambda count: f"{count}",
        bool,
    ],
)
def test_looking_at_it_or_moving_it_is_not_using_it(look):
    count = WatchedCount.watch(torch.tensor(12))
    look(count)
    assert not count.was_used


@pytest.mark.parametrize(
    "use", [lambda count: torch.tensor(24.0) / count, lambda count: count.item(), lambda count: float(count)]
)
def test_using_it_is_noticed_also_after_it_was_moved(use):
    count = WatchedCount.watch(torch.tensor(12))
    use(count.to(torch.float32))
    assert count.was_used
    assert type(torch.tensor(1.0) / count) is torch.Tensor
