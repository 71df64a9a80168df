"""When ``model.train()`` is called before a micro-batch: when it would change something.

``transformers`` calls it each time, which visits every module: about 1.5 microseconds for each, and large models have a
thousand. Here two comparisons of lists tell that all modules are in training mode and that they are the modules that
were seen before. After an evaluation, and after anybody has put a module into evaluation mode or exchanged one, it is
called again. A model with a ``train`` of its own, or with a part that is not in training mode after it (frozen batch
norms), is called each time as before.
"""

from __future__ import annotations

import operator
from typing import Any

from torch import nn

_SET_FLAGS_ALONE = frozenset(
    {"torch.nn.modules.module", "torch.nn.parallel.distributed", "transformers.modeling_utils"}
)
"""Modules of Python whose ``train()`` does nothing to what is in training mode already."""

_is_training = operator.itemgetter("training")


class TrainMode:
    """Knows of which model all modules were in training mode."""

    def __init__(self) -> None:
        self._model: nn.Module | None = None
        self._attributes: list[dict[str, Any]] = []
        self._children: list[dict[str, nn.Module | None]] = []
        self._seen: list[dict[str, nn.Module | None]] = []

    def enter(self, model: nn.Module) -> None:
        """Put a model into training mode."""
        if model is self._model and self._children == self._seen and all(map(_is_training, self._attributes)):
            return
        model.train()
        modules = list(model.modules())
        self._model = model if all(map(_is_plain, modules)) else None
        self._attributes = [vars(module) for module in modules]
        self._children = [module._modules for module in modules]
        self._seen = [dict(children) for children in self._children]


def _is_plain(module: nn.Module) -> bool:
    """Whether ``train()`` sets the flag of a module and nothing else, and the flag is set."""
    attributes = vars(module)
    is_own = "train" in attributes or type(module).train.__module__ not in _SET_FLAGS_ALONE
    return not is_own and attributes.get("training") is True
