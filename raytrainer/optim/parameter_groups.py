"""Which parameters are decayed.

Weight decay is applied to matrices and not to biases and norm layers, which is the anchor's rule; there are always
two groups, even if one of them is empty, so that an optimizer state always fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers.trainer_pt_utils import get_parameter_names

_NOT_DECAYED = [r"bias", r"layernorm", r"rmsnorm", r"(?:^|\.)norm(?:$|\.)", r"_norm(?:$|\.)"]


def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay applies to."""
    return get_parameter_names(model, [nn.LayerNorm], _NOT_DECAYED)


def parameter_groups(
    model: nn.Module, decayed_names: list[str], weight_decay: float, target_names: Iterable[str] = ()
) -> list[dict[str, Any]]:
    """Parameter groups of the parameters that are trained: decayed and not decayed; targets in a group of their own.

    Args:
        model: Whose parameters.
        decayed_names: Those that weight decay applies to.
        weight_decay: Its rate.
        target_names: Matrices that the optimizer treats differently; their group has ``is_target``.
    """
    decayed, targets = set(decayed_names), set(target_names)
    with_decay: list[torch.nn.Parameter] = []
    without_decay: list[torch.nn.Parameter] = []
    meant: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            chosen = meant if name in targets else with_decay if name in decayed else without_decay
            chosen.append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": with_decay, "weight_decay": weight_decay},
        {"params": without_decay, "weight_decay": 0.0},
    ]
    if targets:
        groups.append({"params": meant, "weight_decay": weight_decay, "is_target": True})
    return groups
