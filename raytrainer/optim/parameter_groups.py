"""Which parameters are decayed.

Weight decay applies to matrices and not to biases and normalization layers, the rule of transformers. There are always
two groups, even if one is empty, so that every saved optimizer state fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn
from transformers.trainer_pt_utils import get_parameter_names  # pyright: ignore[reportUnknownVariableType]

_NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to."""
    return get_parameter_names(model, [nn.LayerNorm], _NOT_DECAYED)  # pyright: ignore[reportUnknownVariableType]


def parameter_groups(
    model: nn.Module, decayed_names: list[str], weight_decay: float, target_names: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Group the trainable parameters: decayed, not decayed, and target matrices.

    Args:
        model: The model whose parameters are grouped.
        decayed_names: Parameters that weight decay applies to.
        weight_decay: The decay rate.
        target_names: Matrices that the optimizer treats differently; their group has ``is_target``.
    """
    decayed, targets = set(decayed_names), set(target_names)
    with_decay: list[nn.Parameter] = []
    without_decay: list[nn.Parameter] = []
    of_targets: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            chosen = of_targets if name in targets else with_decay if name in decayed else without_decay
            chosen.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": with_decay, "weight_decay": weight_decay},
        {"params": without_decay, "weight_decay": 0.0},
    ]
    if targets:
        groups.append({"params": of_targets, "weight_decay": weight_decay, "is_target": True})
    return groups
