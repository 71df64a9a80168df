"""The random state of a process without its GPUs: what reading and collating data draws from."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import random
import struct
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, Protocol, Self, cast

import numpy as np
import torch

_MT19937_BYTES = 625 * 4
"""What the default generators of Python and numpy draw from: 624 words, and the position in them."""
_PYTHON_FORMAT = "i624I"


class Generators(Protocol):
    """Generators apart from those of the process."""

    def states(self) -> dict[str, Any]:
        """Name -> state."""
        ...

    def restore(self, states: dict[str, Any]) -> None:
        """Restore the states of those that are among them."""
        ...


class PythonState:
    """The state of Python's global generator, which the loop asks for at every micro-batch.

    Python makes a tuple of 625 numbers of it, and few datasets draw from it. So it is read where the memory of the
    generator is another one than at the last reading. Where that memory is is looked up once, and believed only if what
    is there is the state that Python gives.
    """

    def __init__(self) -> None:
        self._generator: Any = random._inst
        self._address = id(self._generator) + object.__basicsize__
        self._memory: bytes | None = None
        self._read: tuple[Any, ...] = ()
        holds_it = type(self._generator).__basicsize__ >= object.__basicsize__ + _MT19937_BYTES
        self._is_known = holds_it and (
            struct.unpack(_PYTHON_FORMAT, self._look()) == _index_and_words(random.getstate())
        )

    def now(self) -> tuple[Any, ...]:
        """The state, as ``random.getstate`` gives it."""
        if not self._is_known:
            return random.getstate()
        memory = self._look()
        if memory != self._memory or self._generator.gauss_next != self._read[2]:
            self._read = random.getstate()
            self._memory = memory
        return self._read

    def _look(self) -> bytes:
        return ctypes.string_at(self._address, _MT19937_BYTES)


def _index_and_words(state: tuple[Any, ...]) -> tuple[int, ...]:
    """What the memory of a generator holds: the position in its words, and the words."""
    *words, index = state[1]
    return (index, *words)


class NumpyState:
    """The state of numpy's global generator, which the loop asks for at every micro-batch.

    numpy takes 25 microseconds to copy it, and few datasets draw from it. So it is read where the memory of the
    generator is another one than at the last reading. The second half of a pair of normal numbers is kept apart from
    that memory: where there is one, nothing is remembered. (Only who sets a state by hand that differs in such a half
    alone is not noticed.)
    """

    def __init__(self) -> None:
        self._memory: bytes | None = None
        self._read: tuple[Any, ...] = ()

    def now(self) -> tuple[Any, ...]:
        """The state, as ``np.random.get_state`` gives it."""
        generator = cast("Any", np.random).get_bit_generator()
        if type(generator) is not np.random.MT19937:
            return np.random.get_state()  # pyright: ignore[reportReturnType]
        memory = ctypes.string_at(generator.ctypes.state_address, _MT19937_BYTES)
        if memory != self._memory:
            self._read = np.random.get_state()  # pyright: ignore[reportAttributeAccessIssue]
            self._memory = None if self._read[3] else memory
        name, words, *rest = self._read
        return (name, words.copy(), *rest)

    def restore(self, state: Any) -> None:
        """Make a state numpy's own."""
        np.random.set_state(state)
        self._memory = None


_PYTHON = PythonState()
_NUMPY = NumpyState()


@dataclass(frozen=True)
class HostRandomState:
    """The states of Python, numpy and torch on the CPU, and of generators of the user's."""

    states: dict[str, Any]
    """Under the names that checkpoints of ``transformers`` have for them; the user's under ``own``."""

    @classmethod
    def now(cls, own: Generators | None = None) -> Self:
        """The state of this process, and of the user's generators."""
        states: dict[str, Any] = {
            "python": _PYTHON.now(),
            "numpy": _NUMPY.now(),
            "cpu": torch.default_generator.get_state(),
        }
        of_user = own.states() if own is not None else {}
        return cls({**states, "own": of_user} if of_user else states)

    def restore(self, own: Generators | None = None) -> None:
        """Make it the state of this process, and of the user's generators."""
        if own is not None:
            own.restore(self.states.get("own", {}))
        random.setstate(self.states["python"])
        _NUMPY.restore(self.states["numpy"])
        torch.random.set_rng_state(self.states["cpu"])


def seed_of(*parts: int | str) -> int:
    """A seed that follows from its parts, the same on every machine [63 bits]."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def seed_host(seed: int) -> None:
    """Seed Python, numpy and torch on the CPU; touches no GPU."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    torch.default_generator.manual_seed(seed)


@contextlib.contextmanager
def drawing_from(state: HostRandomState | None, own: Generators | None = None) -> Generator[None]:
    """Inside, this process draws from a state; afterwards from where it was. None changes nothing.

    Args:
        state: The state.
        own: The user's generators.
    """
    if state is None:
        yield
        return
    with kept(own):
        state.restore(own)
        yield


@contextlib.contextmanager
def kept(own: Generators | None = None) -> Generator[None]:
    """Whatever is drawn or seeded inside, the random state afterwards is that from before."""
    before = HostRandomState.now(own)
    try:
        yield
    finally:
        before.restore(own)
