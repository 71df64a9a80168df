"""A network with dropout, whose steps take no time, and its samples; for runs that are killed and compared."""

from __future__ import annotations

import torch
from torch import nn


class Net(nn.Module):
    """One output for four inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = nn.Linear(4, 8)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        predicted = self.head(self.dropout(torch.tanh(self.hidden(x)))).squeeze(-1)
        return {"loss": nn.functional.mse_loss(predicted, labels), "logits": predicted}


def make_net() -> Net:
    """The network, always with the same weights."""
    torch.manual_seed(0)
    return Net()


def make_samples() -> list[dict[str, torch.Tensor]]:
    """64 samples, always the same; the label is the sum of the inputs."""
    rows = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    return [{"x": row, "labels": row.sum()} for row in rows]
