"""Finding out whether a loss was divided by the number of items in its step.

A model whose ``forward`` takes ``**kwargs`` may divide its loss by ``num_items_in_batch``, or may ignore it; the
signature does not say which, and a wrong guess silently scales gradients by the number of ranks or of
micro-batches. So the count is handed over as a tensor that notices when it is used in an operation, once, in the first
forward pass.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_map

_LOOKS = frozenset(
    {
        *("__get__", "dim", "is_complex", "is_floating_point", "numel", "size"),
        *("_is_view", "is_conj", "is_neg", "storage_offset", "stride", "untyped_storage"),
    }
)
"""Looking at a tensor's form is not using its value; FSDP does it with all inputs of each of its units, and a compiler
with all inputs of a graph."""
_MOVES = frozenset({"contiguous", "cpu", "cuda", "detach", "to"})
"""What they return is the same count, elsewhere."""


_ASKS = frozenset(
    {
        *("__bool__", "__eq__", "__format__", "__ge__", "__gt__", "__le__", "__lt__", "__ne__", "__repr__"),
        *("eq", "ge", "gt", "is_nonzero", "le", "lt", "ne"),
    }
)
"""Comparing it, or printing it, divides nothing by it."""
_TAKEN_OUT = frozenset({"__array__", "__float__", "__index__", "__int__", "item", "numpy", "tolist"})
"""The value leaves the tensor, and nobody sees what becomes of it."""


class WatchedCount(torch.Tensor):
    """A scalar tensor that remembers whether any operation read it. Results are plain tensors."""

    reads: list[str]
    """Names of the functions that read it, or what it became when it was moved."""

    @staticmethod
    def watch(count: torch.Tensor) -> WatchedCount:
        """Return a count, a scalar, that records how it is used."""
        watched = count.as_subclass(WatchedCount)
        watched.reads = []
        return watched

    @property
    def was_used(self) -> bool:
        """Whether a value may have been divided by it."""
        return not _ASKS.issuperset(self.reads)

    @property
    def was_only_taken_out(self) -> bool:
        """Whether all that is known is that its value left the tensor."""
        return self.was_used and (_ASKS | _TAKEN_OUT).issuperset(self.reads)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        seen: list[WatchedCount] = []

        def unwatched(value: Any) -> Any:
            if isinstance(value, WatchedCount):
                seen.append(value)
                return plain(value)
            return value

        with torch._C.DisableTorchFunctionSubclass():
            if name in _LOOKS:
                return func(*args, **(kwargs or {}))
        args, kwargs = tree_map(unwatched, (args, kwargs or {}))
        result = func(*args, **kwargs)
        if name in _MOVES and len(seen) == 1 and isinstance(result, torch.Tensor):
            moved = result.as_subclass(WatchedCount)
            moved.reads = seen[0].reads
            return moved
        for watched in seen:
            watched.reads.append(name)
        return result


def plain(count: torch.Tensor) -> torch.Tensor:
    """The same scalar, unwatched; this is not a use of it."""
    with torch._C.DisableTorchFunctionSubclass():
        return count.as_subclass(torch.Tensor)


class ForwardWatch:
    """Watches one module's next forward pass that is given ``num_items_in_batch``."""

    def __init__(self, module: nn.Module) -> None:
        self.model_divides: bool | None = None
        """None until a forward pass was seen."""
        self.is_unclear = False
        """Its value was taken out of the tensor, so ``model_divides`` is a guess."""
        self._count: WatchedCount | None = None
        self._module = module
        self._compiled: Any = None
        self._hooks = [
            module.register_forward_pre_hook(self._before, with_kwargs=True),
            module.register_forward_hook(self._after),
        ]

    @property
    def is_open(self) -> bool:
        """Whether a forward pass is still waited for."""
        return bool(self._hooks)

    def leave_uncompiled(self) -> None:
        """Before a forward pass: a compiler would compile the watching, and then the model once more without it."""
        if self._module._compiled_call_impl is not None:
            self._compiled, self._module._compiled_call_impl = self._module._compiled_call_impl, None

    def _before(
        self, module: nn.Module, args: Any, kwargs: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]] | None:
        count = kwargs.get("num_items_in_batch")
        if not isinstance(count, torch.Tensor) or not module.training:
            return None
        self._count = WatchedCount.watch(plain(count).detach())
        return args, {**kwargs, "num_items_in_batch": self._count}

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        if self._count is not None:
            self.model_divides = self._count.was_used
            self.is_unclear = self._count.was_only_taken_out
            self.close()

    def close(self) -> None:
        """Stop watching."""
        self._count = None
        if self._compiled is not None:
            self._module._compiled_call_impl, self._compiled = self._compiled, None
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
