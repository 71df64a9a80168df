"""A state is refused if its options, or its tensors, are those of another optimizer."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from raytrainer import CheckpointError
from raytrainer.checkpoint.names import ARGUMENTS_NAME
from raytrainer.checkpoint.optimizer_match import check_same_optimizer

bitsandbytes = pytest.importorskip("bitsandbytes")

Make = Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]


class Mine(torch.optim.AdamW):
    """Keeps what its author likes."""

    def step(self, closure: Any = None) -> None:
        for group in self.param_groups:
            for parameter in group["params"]:
                self.state[parameter] = {"step": torch.tensor(1.0), "exp_avg": parameter.grad.clone()}


MAKE: dict[str, Make] = {
    "AdamW": torch.optim.AdamW,
    "Adam": torch.optim.Adam,
    "SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "SGD without momentum": lambda parameters: torch.optim.SGD(parameters, lr=0.1),
    "Mine": Mine,
    "bnb.AdamW": lambda parameters: bitsandbytes.optim.AdamW(parameters, optim_bits=32),
    "bnb.Lion": lambda parameters: bitsandbytes.optim.Lion(parameters, optim_bits=32),
    "bnb.Lion, 8 bit": lambda parameters: bitsandbytes.optim.Lion(parameters, optim_bits=8),
}


def stepped(name: str) -> torch.optim.Optimizer:
    parameter = torch.nn.Parameter(torch.ones(8192))
    parameter.grad = torch.ones(8192)
    optimizer = MAKE[name]([parameter])
    optimizer.step()
    return optimizer


@pytest.mark.parametrize(
    ("saved", "own", "says"),
    [
        ("AdamW", "bnb.Lion", "has exp_avg, exp_avg_sq, and bnb.Lion keeps state1"),
        ("bnb.Lion", "AdamW", "has state1, and AdamW keeps exp_avg, exp_avg_sq"),
        ("bnb.Lion", "bnb.AdamW", "has state1, and bnb.AdamW keeps state1, state2"),
        ("bnb.AdamW", "bnb.Lion", "has state1, state2, and bnb.Lion keeps state1"),
        ("AdamW", "SGD", "lacks dampening, momentum, nesterov"),
    ],
)
def test_the_state_of_another_optimizer_is_refused(tmp_path: Path, saved: str, own: str, says: str) -> None:
    (tmp_path / ARGUMENTS_NAME).write_text(json.dumps({"optim": "the_other"}))
    state = stepped(saved).state_dict()
    with pytest.raises(CheckpointError, match=says) as caught:
        check_same_optimizer(tmp_path, state, MAKE[own]([torch.nn.Parameter(torch.ones(2))]), own)
    assert "Set optim='the_other' to go on with it; or start from the weights alone" in str(caught.value)


@pytest.mark.parametrize(
    ("saved", "own"),
    [*((name, name) for name in MAKE), ("bnb.Lion, 8 bit", "bnb.Lion"), ("Adam", "AdamW")],
)
def test_the_state_of_the_same_optimizer_is_taken(tmp_path: Path, saved: str, own: str) -> None:
    optimizer = stepped(own)
    check_same_optimizer(tmp_path, stepped(saved).state_dict(), optimizer, own)
    optimizer.load_state_dict(stepped(saved).state_dict())
    optimizer.step()
