"""GrokAdamW: AdamW on gradients whose slow part is amplified (Grokfast, Lee et al., arXiv 2405.20233).

For the i-th parameter of a group, with gradient g clipped to the norm ``gradient_clipping`` by itself:

    e <- a e + (1 - a) g,   a = alpha_init exp(-grokking_signal_decay_rate s)
    h  = g + lamb e
    m <- b m + (1 - b) h,   b = beta1 (1 - gamma)^i
    v <- beta2 v + (1 - beta2) h^2
    p <- p (1 - lr decay) - lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps)

The grokking signal s is (eval_loss - train_loss) / max(eval_loss, train_loss), at least 0, if the group has both losses
as ``group["train_loss"]`` and ``group["eval_loss"]``, which a callback may set; otherwise it is 0, and so
a = alpha_init. The arithmetic is that of the package grokadamw; unlike there, all state is in the optimizer's state, so
that a run resumes from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from raytrainer.optim.composition.exact_state import ExactStateOptimizer

DEFAULTS = {
    "alpha_init": 0.98,
    "lamb": 2.0,
    "gamma": 0.1,
    "grokking_signal_decay_rate": 0.1,
    "gradient_clipping": 1.0,
}
"""Options of the package grokadamw, and their values there."""


class GrokAdamW(ExactStateOptimizer):
    """AdamW with an amplified moving average of the gradient.

    Args:
        groups: Parameter groups with ``lr`` and ``weight_decay``.
        betas: Decay rates of the first and second moment.
        eps: Added to the root of the second moment, before its bias is corrected.
        options: ``alpha_init``, ``lamb``, ``gamma``, ``grokking_signal_decay_rate`` and
            ``gradient_clipping`` (0: none).
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        **options: float,
    ) -> None:
        super().__init__(groups, {"betas": betas, "eps": eps, **DEFAULTS, **options})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            alpha = group["alpha_init"] * math.exp(
                -group["grokking_signal_decay_rate"] * grokking_signal(group)
            )
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            for index, parameter in enumerate(moving):
                if group["gradient_clipping"] > 0:
                    clip_grad_norm_(parameter, group["gradient_clipping"])
                self._update(parameter, group, alpha, group["betas"][0] * (1 - group["gamma"]) ** index)

    def _update(self, parameter: torch.Tensor, group: dict[str, Any], alpha: float, beta: float) -> None:
        assert parameter.grad is not None
        state, gradient = self.state[parameter], parameter.grad.float()
        if not state:
            state.update({key: torch.zeros_like(gradient) for key in ("exp_avg", "exp_avg_sq", "grok_ema")})
            state["step"] = 0
        state["step"] += 1
        beta1, beta2 = group["betas"]
        state["grok_ema"].mul_(alpha).add_(gradient, alpha=1 - alpha)
        amplified = gradient + group["lamb"] * state["grok_ema"]
        state["exp_avg"].mul_(beta).add_(amplified, alpha=1 - beta)
        state["exp_avg_sq"].mul_(beta2).addcmul_(amplified, amplified, value=1 - beta2)
        step_size = group["lr"] * math.sqrt(1 - beta2 ** state["step"]) / (1 - beta1 ** state["step"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        change = state["exp_avg"] / state["exp_avg_sq"].sqrt().add_(group["eps"])
        parameter.add_(change.to(parameter.dtype), alpha=-step_size)


def grokking_signal(group: dict[str, Any]) -> float:
    """How much higher the evaluation loss is than the training loss, relative to the larger; 0 if one is unknown."""
    trained, evaluated = group.get("train_loss"), group.get("eval_loss")
    if trained is None or evaluated is None or max(trained, evaluated) <= 0:
        return 0.0
    return max(0.0, evaluated - trained) / max(trained, evaluated)
