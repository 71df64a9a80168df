"""What labels say before they are copied to a GPU: whether a micro-batch has a target.

Asking the copy would wait for the GPU in each step. So the loader looks at what it copies, and remembers the answer
for as long as the copy lives. A tensor that the user made of the copy is another one, of which nothing is known.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch.utils.weak import WeakTensorKeyDictionary

IGNORED = -100
_NAME = "label"
"""What the names of labels have in common."""

_KNOWN: Any = WeakTensorKeyDictionary()
"""Copy -> whether it has a target, and whether it has one behind the first position."""


def note_targets(batch: Any, copied: Any) -> None:
    """Remember which labels of a batch have a target.

    Args:
        batch: On the CPU.
        copied: The same batch on the device.
    """
    if not isinstance(batch, Mapping) or not isinstance(copied, Mapping):
        return
    copies = cast("Mapping[str, Any]", copied)
    for name, labels in cast("Mapping[str, Any]", batch).items():
        if _NAME in name and isinstance(labels, torch.Tensor) and labels.device.type == "cpu":
            _KNOWN[copies[name]] = (_has_target(labels, shifted=False), _has_target(labels, shifted=True))


def holds_target(labels: torch.Tensor, *, shifted: bool) -> bool:
    """Whether labels hold a target; True where that cannot be told without waiting for a device.

    Args:
        labels: Class indices, of any shape; ``-100`` is none.
        shifted: The loss shifts labels, so that position 0 is never a target.
    """
    if labels.device.type == "cpu":
        return _has_target(labels, shifted=shifted)
    known: tuple[bool, bool] | None = _KNOWN.get(labels)
    return True if known is None else known[shifted]


def _has_target(labels: torch.Tensor, *, shifted: bool) -> bool:
    if labels.is_floating_point():
        return True
    counted = labels[..., 1:] if shifted and labels.dim() > 0 else labels
    return bool(counted.ne(IGNORED).any())
