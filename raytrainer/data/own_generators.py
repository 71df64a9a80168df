"""Generators of random numbers that a user keeps in a dataset, a collator, a sampler or a loader.

They are looked for among the attributes of the object itself. What they draw is handled like what comes from the
states of the process: a checkpoint holds their states, and a loading process seeds them from the sample.
"""

from __future__ import annotations

import functools
import inspect
import random
from typing import Any, cast

import numpy as np
import torch

_KINDS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)


_OTHERS: set[type[Any]] = set()
"""Classes of attributes that were seen to be no generators: the owners' are looked through in each micro-batch."""


def _may_hold_any(attributes: dict[str, Any]) -> bool:
    """Whether an object with these attributes keeps a generator among them."""
    unknown: set[type[Any]] = set(map(type, attributes.values())) - _OTHERS
    _OTHERS.update(kind for kind in unknown if not issubclass(kind, _KINDS))
    return not unknown <= _OTHERS


class OwnGenerators:
    """The generators of some objects of the user's.

    Args:
        **owners: Name in a checkpoint -> object; None for one that there is not.
    """

    def __init__(self, **owners: object) -> None:
        self._owners = {name: unwrapped(owner) for name, owner in owners.items()}

    def seed(self, seed: int) -> None:
        """Seed all of them, those too that a collator makes at its first batch."""
        for owner in self._owners.values():
            _make(owner)
        for generator in self._found().values():
            _seed(generator, seed)

    def states(self) -> dict[str, Any]:
        """Their states, as ``torch.load(weights_only=True)`` reads them."""
        return {name: _state(generator) for name, generator in self._found().items()}

    def restore(self, states: dict[str, Any]) -> None:
        """Restore the states of those that are among them."""
        for name in states:
            _make(self._owners.get(name.partition(".")[0]))
        for name, generator in self._found().items():
            if name in states:
                _restore(generator, states[name])

    def _found(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for owner, thing in self._owners.items():
            attributes = _attributes(thing)
            if _may_hold_any(attributes):
                found |= {
                    f"{owner}.{name}": one for name, one in attributes.items() if isinstance(one, _KINDS)
                }
        return found


def unwrapped(owner: Any) -> Any:
    """The user's own object inside a bound method, a ``partial``, or a collator that drops columns before it."""
    while True:
        if isinstance(owner, functools.partial):
            owner = cast("Any", owner).func
        elif inspect.ismethod(owner):
            owner = owner.__self__
        elif "data_collator" in _attributes(owner):
            owner = _attributes(owner)["data_collator"]
        else:
            return owner


def _attributes(owner: object) -> dict[str, Any]:
    return owner.__dict__ if not isinstance(owner, type) and hasattr(owner, "__dict__") else {}


def _make(owner: Any) -> None:
    """Let a collator of transformers that has a seed make its generator now, which it does at its first batch."""
    known = _attributes(owner)
    if (
        known.get("seed") is not None
        and known.get("generator", owner) is None
        and hasattr(owner, "create_rng")
    ):
        owner.create_rng()


def _seed(generator: Any, seed: int) -> None:
    if isinstance(generator, torch.Generator):
        generator.manual_seed(seed)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = type(generator.bit_generator)(seed).state
    else:
        generator.seed(seed & 0xFFFFFFFF)


def _state(generator: Any) -> Any:
    if isinstance(generator, np.random.Generator):
        return generator.bit_generator.state
    if isinstance(generator, random.Random):
        return generator.getstate()
    return generator.get_state()


def _restore(generator: Any, state: Any) -> None:
    if isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, random.Random):
        generator.setstate(state)
    else:
        generator.set_state(state)
