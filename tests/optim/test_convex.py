"""Every optimizer of the catalogue on a problem with a known optimum, and the dtype of its state."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raytrainer.optim import catalogue
from raytrainer.optim.traits import Entry, OptimizerRequest
from tests.optim.test_catalogue import ON_CPU, needs

ROWS, COLUMNS, RANK = 128, 64, 32
"""A projected gradient has 128 x 32 = 4,096 elements, from which on bitsandbytes keeps 8 bits."""
RATES = {
    "sgd": 1.5,
    "adagrad": 0.5,
    "schedule_free_sgd": 5.0,
    "lomo": 1.5,
    "lion_32bit": 0.02,
    "lion_8bit": 0.02,
}
WORDS = {"8 bit": "uint8", "4 bit": "uint8", "fp32": "float32"}


def minimized(entry: Entry, steps: int) -> tuple[float, torch.optim.Optimizer, torch.nn.Parameter]:
    """Final loss over initial loss of least squares, |X W^T - Y|^2, whose optimum is 0."""
    generator = torch.Generator().manual_seed(0)
    inputs, optimum = (
        torch.randn(256, COLUMNS, generator=generator),
        torch.randn(ROWS, COLUMNS, generator=generator),
    )
    weight, bias = torch.nn.Parameter(torch.zeros(ROWS, COLUMNS)), torch.nn.Parameter(torch.zeros(ROWS))
    has_targets = entry.traits.takes_target_modules
    is_low_rank = has_targets and entry.traits.default_targets is None
    optimizer: Any = catalogue.build(
        entry,
        OptimizerRequest(
            groups=[
                {"params": [weight], "weight_decay": 0.0} | ({"is_target": True} if has_targets else {}),
                {"params": [bias], "weight_decay": 0.0},
            ],
            learning_rate=RATES.get(entry.name, 0.1),
            adam_betas=(0.9, 0.99),
            adam_epsilon=1e-8,
            options={"rank": RANK, "update_proj_gap": 10, "scale": 1.0} if is_low_rank else {},
        ),
    )
    if entry.traits.updates_in_backward:
        optimizer.arm()

    def loss() -> torch.Tensor:
        return (inputs @ weight.t() + bias - inputs @ optimum.t()).square().mean()

    first = loss().item()
    if hasattr(optimizer, "train"):
        optimizer.train()
    for _ in range(steps):
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
    if hasattr(optimizer, "eval"):
        optimizer.eval()
    return loss().item() / first, optimizer, weight


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(entry, id=entry.name, marks=pytest.mark.slow if entry.family == "torchao" else ())
        for entry in ON_CPU
    ],
)
def test_an_optimizer_minimizes_a_convex_problem_with_state_of_the_stated_dtype(entry: Entry) -> None:
    needs(entry)
    left, optimizer, weight = minimized(entry, 120)
    # Lion's steps have one size, so it circles the optimum.
    assert left < (0.2 if "lion" in entry.name else 0.05)
    always = "" if entry.state.startswith("nothing") else entry.state
    stated = next((dtype for words, dtype in WORDS.items() if words in always), None)
    kept = {str(leaf.dtype).removeprefix("torch.") for leaf in tensors(optimizer.state[weight])}
    assert stated in kept if stated is not None else kept <= {"float32"}


def tensors(state: dict[str, Any]) -> list[torch.Tensor]:
    """The moments: torchao's consist of inner tensors, and the table of 8-bit values does not count."""
    found = []
    for name, value in state.items():
        if (
            isinstance(value, torch.Tensor)
            and value.dim()
            and not name.startswith(("qmap", "absmax", "projection"))
        ):
            found.append(value.codes if hasattr(value, "codes") else value)
    return found
