"""AdaLomo: adaptive learning rates with factored second moments, for updates in the backward pass.

Lv et al., arXiv 2310.10195, algorithm 1. With G of shape [m, n] and beta_t = 1 - t^decay_rate, r and c are moving
averages of the rows and columns of G^2 + eps1; U = G / sqrt(r c / mean(r)), divided by max(1, RMS(U) / clip_threshold);
and W <- W - lr * max(eps2, RMS(W)) * U. Works on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

from raytrainer.layout.rows import RowShards, is_row_sharded, local_rows, local_tensor
from raytrainer.layout.tensor_layout import full_tensor
from raytrainer.optim.algorithms.norms import norm


class AdaLomo(torch.optim.Optimizer):
    """AdaLomo, with the arithmetic and the defaults of its authors' package.

    Args:
        groups: Parameter groups.
        lr: Learning rate, relative to the size of a parameter.
        eps: What is added to squared gradients; the least size of a parameter.
        clip_threshold: Largest root mean square of an update.
        decay_rate: Exponent of the moving averages.
        weight_decay: Decoupled, times the relative learning rate.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        weight_decay: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "eps": eps,
            "clip_threshold": clip_threshold,
            "decay_rate": decay_rate,
            "weight_decay": weight_decay,
        }
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    _step(parameter, parameter.grad.float(), self.state[parameter], group)


def _step(
    parameter: torch.Tensor, gradient: torch.Tensor, state: dict[str, Any], group: dict[str, Any]
) -> None:
    """All ranks that share a parameter: its averages are whole on each, so sums over its rows are sent.

    Args:
        parameter: ``[..., m, n]`` or ``[n]``, whole or sharded by rows.
        gradient: Of the same shape and layout, float32.
        state: Of the parameter; filled by its first step.
        group: Its parameter group.
    """
    is_factored = gradient.dim() > 1
    if not state:
        state["step"] = 0
        if is_factored:
            state["row"] = local_tensor(gradient).new_zeros(gradient.shape[:-1])
            state["column"] = local_tensor(gradient).new_zeros(gradient.shape[:-2] + gradient.shape[-1:])
        else:
            state["square"] = torch.zeros_like(gradient)
    state["step"] += 1
    new = math.pow(state["step"], group["decay_rate"])  # 1 - beta_t
    square = gradient.square() + group["eps"][0]
    if is_factored:
        row, column = state["row"], state["column"]
        row.mul_(1 - new).add_(full_tensor(square.sum(dim=-1)) / square.shape[-1], alpha=new)
        column.mul_(1 - new).add_(full_tensor(square.sum(dim=-2)) / square.shape[-2], alpha=new)
        ratio = (row / row.mean(dim=-1, keepdim=True)).rsqrt_()
        here = local_rows(parameter)
        scale = (ratio if here is None else ratio[here]).unsqueeze(-1) * column.unsqueeze(-2).rsqrt()
        update = scale.mul_(local_tensor(gradient))
    else:
        state["square"].mul_(1 - new).add_(square, alpha=new)
        update = local_tensor(state["square"]).rsqrt().mul_(local_tensor(gradient))
    size = _rms(update, parameter)
    update.div_((size / group["clip_threshold"]).clamp_(min=1.0))
    values = local_tensor(parameter).float()
    rate = group["lr"] * max(group["eps"][1], float(_rms(values, parameter)))
    if group["weight_decay"]:
        values = values.mul(1 - rate * group["weight_decay"])
    local_tensor(parameter).copy_(values - rate * update)


def _rms(local: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """The root mean square (a scalar) of a tensor laid out like a parameter, of which ``local`` is this rank's part."""
    if is_row_sharded(parameter):
        square = local.square().sum()
        dist.all_reduce(square, group=RowShards(parameter).group)
        return (square / parameter.numel()).sqrt()
    return norm(local) / math.sqrt(local.numel())
