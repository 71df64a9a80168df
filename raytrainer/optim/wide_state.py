"""Which parameters keep 32-bit state although their optimizer quantizes: the weights of embeddings.

Most rows of an embedding get no gradient in a step, so its blocks hold numbers of very different sizes, which 8 bits
cannot tell apart. What counts is the parameter and not its group, because transformers has the same two groups for
every optimizer.
"""

from __future__ import annotations

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary

_wide = WeakTensorKeyDictionary()


def note_embeddings(model: nn.Module) -> None:
    """Remember the weights of a model's embeddings, for the optimizer that is about to be built."""
    for module in model.modules():
        if isinstance(module, nn.Embedding):
            _wide[module.weight] = True


def note_copy(copy: torch.Tensor, parameter: torch.Tensor) -> None:
    """A tensor is stepped in place of a parameter, and keeps the same state."""
    if keeps_wide_state(parameter):
        _wide[copy] = True


def keeps_wide_state(parameter: torch.Tensor) -> bool:
    """Whether the state of a parameter must not be quantized."""
    return parameter in _wide
