"""The nests that models return: which parts are leaves, and which leaves are Python objects.

A nest is a tensor, or a list, tuple or mapping of nests. With ``eval_use_gather_object`` a leaf may be anything: a
list with one object for each sample (texts, detected boxes), or one object for a batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from raytrainer.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Objects:
    """A leaf that is no tensor: one object a sample, or a single one for the whole batch."""

    items: list[Any]


def map_leaves(function: Callable[..., Any], data: Any, *others: Any) -> Any:
    """Apply a function to each leaf of a nest, and to the leaves of others at the same place.

    Args:
        function: Takes the leaf of each nest.
        data: A nest; None counts as a leaf.
        *others: Nests of the same form.
    """
    if isinstance(data, Mapping):
        parts = {
            key: map_leaves(function, value, *(one[key] for one in others)) for key, value in data.items()
        }
        return type(data)(parts)  # type: ignore[call-arg]
    if isinstance(data, tuple | list):
        parts = [map_leaves(function, *together) for together in zip(data, *others, strict=True)]
        return type(data)(*parts) if hasattr(data, "_fields") else type(data)(parts)
    return function(data, *others)


def tensors_only(data: Any, *, source: str) -> Any:
    """Check that all leaves are tensors; arrays of numpy become tensors.

    Raises:
        ConfigurationError: If one is not; says which argument lets it through.
    """

    def check(leaf: Any) -> Any:
        if isinstance(leaf, np.ndarray) and leaf.dtype != object:
            return torch.from_numpy(leaf)
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            raise ConfigurationError(
                f"The {source} of an evaluated batch hold a {type(leaf).__name__}, and only tensors can be gathered "
                "and joined. Return tensors, leave it out with ignore_keys=, or set eval_use_gather_object=True to "
                "gather any object (slower: objects are pickled)."
            )
        return leaf

    return map_leaves(check, data)


def mark_objects(data: Any, num_rows: int) -> Any:
    """Find the leaves that are no tensors.

    Args:
        data: What a model, or ``preprocess_logits_for_metrics``, returned for one batch.
        num_rows: Samples of the batch. A list of that length without a tensor is a list of objects of the samples.

    Returns:
        The nest, with ``Objects`` in place of what is no tensor. Tensors inside of objects are on the CPU.
    """
    if data is None or isinstance(data, torch.Tensor):
        return data
    if isinstance(data, np.ndarray) and data.dtype != object:
        return torch.from_numpy(data)
    is_of_samples = isinstance(data, list) and len(data) == num_rows
    if is_of_samples and not any(isinstance(item, torch.Tensor) for item in data):
        return Objects([_on_cpu(item) for item in data])
    if isinstance(data, Mapping):
        return type(data)({key: mark_objects(value, num_rows) for key, value in data.items()})  # type: ignore[call-arg]
    if isinstance(data, tuple | list) and not hasattr(data, "_fields"):
        return type(data)(mark_objects(value, num_rows) for value in data)
    return Objects([_on_cpu(data)])


def without_marks(data: Any) -> Any:
    """A nest with its objects as plain lists."""
    return map_leaves(lambda leaf: leaf.items if isinstance(leaf, Objects) else leaf, data)


def _on_cpu(item: Any) -> Any:
    return map_leaves(lambda leaf: leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf, item)
