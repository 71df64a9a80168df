"""How gradients are clipped where every rank holds them whole.

As ``torch.nn.utils.clip_grad_norm_`` does, to the last bit, which sorts the gradients by device and type twice in each
step. Here it is looked up once whether all are alike, and on the CPU gradients that are short enough are left alone
instead of being multiplied by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import nn

_TINY = 1e-6
"""torch adds it to the norm that it divides by."""


class Clipping:
    """Clips the gradients of some parameters.

    Args:
        parameters: Those that are trained.
    """

    def __init__(self, parameters: Sequence[nn.Parameter]) -> None:
        self.parameters = parameters
        self._are_alike = len({(one.device, one.dtype, one.layout) for one in parameters}) == 1 and {
            type(one) for one in parameters
        } == {nn.Parameter}

    def clip(self, max_norm: float) -> torch.Tensor:
        """Scale all gradients so that their norm is at most ``max_norm``.

        Returns:
            The norm before, a scalar.
        """
        if not self._are_alike:
            return nn.utils.clip_grad_norm_(self.parameters, max_norm)
        gradients = [one.grad for one in self.parameters if one.grad is not None]
        if not gradients:
            return torch.tensor(0.0)
        with torch.no_grad():
            norms = torch._foreach_norm(gradients, 2.0)
            norm = cast("torch.Tensor", torch.linalg.vector_norm(torch.stack(norms), 2.0))
            factor = torch.clamp(max_norm / (norm + _TINY), max=1.0)
            if not factor.is_cpu or factor.item() != 1.0:
                torch._foreach_mul_(gradients, factor)
        return norm
