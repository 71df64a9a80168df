"""Nested model outputs: which parts are leaves, and which leaves are Python objects rather than tensors.

A nested structure is a tensor, or a list, tuple or mapping of nested structures. With ``eval_use_gather_object`` a leaf
may be anything: a list with one object per sample (texts, detected boxes), or one object for the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

import numpy as np
import torch

from raytrainer.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Objects:
    """A leaf that is not a tensor: one object per sample, or a single one for the whole batch."""

    items: list[Any]


def is_mapping(data: object) -> TypeGuard[Mapping[Any, Any]]:
    """Whether a nested structure is a mapping."""
    return isinstance(data, Mapping)


def is_sequence(data: object) -> TypeGuard[Sequence[Any]]:
    """Whether a nested structure is a tuple (named or not) or a list."""
    return isinstance(data, tuple | list)


def is_object_list(data: object, num_rows: int) -> TypeGuard[list[Any]]:
    """Whether data is a list with one Python object per sample, none of which is a tensor.

    Args:
        data: A nested structure.
        num_rows: Samples in the batch.
    """
    if not isinstance(data, list):
        return False
    items = cast("list[Any]", data)
    return len(items) == num_rows and not any(isinstance(item, torch.Tensor) for item in items)


def like(original: Any, children: Any) -> Any:
    """Put children into a container of the same type as another one.

    Args:
        original: A mapping, tuple, named tuple or list.
        children: A dict for a mapping, otherwise an iterable.
    """
    container = cast("Callable[..., Any]", type(original))
    return container(*children) if hasattr(original, "_fields") else container(children)


def map_leaves(function: Callable[..., Any], data: Any, *others: Any) -> Any:
    """Apply a function to each leaf of a nested structure, and to the corresponding leaves of others.

    Args:
        function: Takes one leaf of each nested structure.
        data: A nested structure; None counts as a leaf.
        *others: Nested structures of the same form.
    """
    if is_mapping(data):
        return like(
            data,
            {key: map_leaves(function, value, *(one[key] for one in others)) for key, value in data.items()},
        )
    if is_sequence(data):
        return like(data, [map_leaves(function, *leaves) for leaves in zip(data, *others, strict=True)])
    return function(data, *others)


def require_tensors(data: object, *, source: str) -> Any:
    """Check that all leaves are tensors, and turn numpy arrays into tensors.

    Args:
        data: A nested structure.
        source: What it is, for the error message: "predictions" or "labels".

    Raises:
        ConfigurationError: If a leaf is neither; the message names the argument that allows it.
    """

    def check(leaf: object) -> Any:
        if _is_numeric_array(leaf):
            return torch.from_numpy(leaf)
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            raise ConfigurationError(
                f"The {source} of an evaluation batch contain a {type(leaf).__name__}, but only tensors can be "
                "gathered and concatenated. Return tensors, leave it out with ignore_keys=, or set "
                "eval_use_gather_object=True to gather any object (slower: objects are pickled)."
            )
        return leaf

    return map_leaves(check, data)


def wrap_objects(data: object, num_rows: int) -> Any:
    """Wrap the leaves that are not tensors in ``Objects``.

    Args:
        data: What a model, or ``preprocess_logits_for_metrics``, returned for one batch.
        num_rows: Samples in the batch. A list of that length without tensors holds one object per sample.

    Returns:
        The nested structure, with ``Objects`` in place of other leaves. Tensors inside objects are on the CPU.
    """
    if data is None or isinstance(data, torch.Tensor):
        return data
    if _is_numeric_array(data):
        return torch.from_numpy(data)
    if is_object_list(data, num_rows):
        return Objects([_to_cpu(item) for item in data])
    if is_mapping(data):
        return like(data, {key: wrap_objects(value, num_rows) for key, value in data.items()})
    if is_sequence(data) and not hasattr(data, "_fields"):
        return like(data, [wrap_objects(value, num_rows) for value in data])
    return Objects([_to_cpu(data)])


def unwrap_objects(data: object) -> Any:
    """Turn the ``Objects`` of a nested structure back into plain lists."""

    def unwrap(leaf: object) -> Any:
        return leaf.items if isinstance(leaf, Objects) else leaf

    return map_leaves(unwrap, data)


def _is_numeric_array(data: object) -> TypeGuard[np.ndarray[Any, Any]]:
    if not isinstance(data, np.ndarray):
        return False
    return cast("np.ndarray[Any, Any]", data).dtype != object


def _to_cpu(item: object) -> Any:
    def move(leaf: object) -> Any:
        return leaf.cpu() if isinstance(leaf, torch.Tensor) else leaf

    return map_leaves(move, item)
