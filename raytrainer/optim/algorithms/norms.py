"""The Euclidean norm that the algorithms use: torch's, with a type."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch


def norm(tensor: torch.Tensor, *, dim: int | None = None) -> torch.Tensor:
    """The Euclidean norm of a tensor.

    Args:
        tensor: Any shape, floating point.
        dim: Dimension to reduce, which stays with size 1; None reduces all dimensions to a scalar.

    Returns:
        The norm or norms, in the dtype of the tensor.
    """
    vector_norm = cast("Callable[..., torch.Tensor]", torch.linalg.vector_norm)
    return vector_norm(tensor) if dim is None else vector_norm(tensor, dim=dim, keepdim=True)
