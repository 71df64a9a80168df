"""When a loader fetches a micro-batch: one ahead of its use, as ``transformers`` does.

A collator may draw random numbers (which tokens it masks), and so may a dataset. With the same seed they draw the same
numbers as in ``transformers`` only if the next micro-batch is fetched before dropout draws for this one. So where the
data are read in the process that trains, they are fetched one ahead; loading processes have random states of their
own, and read ahead anyway.

A micro-batch that was fetched and not used is lost when a run ends there. The random state from before it was fetched
is kept, so that a checkpoint can hold it and a resumed run fetches the same one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from raytrainer.random_state import Generators, HostRandomState

_END = object()
"""There is no further item."""


@dataclass(frozen=True)
class _Failed:
    """Fetching an item raised. The error is raised when it is the item's turn: a run may end before."""

    error: Exception


class MicroBatches(Iterator[Any]):
    """The micro-batches of one pass over the data.

    Args:
        items: What is fetched.
        hand_out: Makes the micro-batch of an item, when it is its turn.
        looks_ahead: Whether an item is fetched before the one before it is used.
        explain: Adds to the error of an item, given its index in this pass, what is known about it.
        own: Generators of the user's that fetching an item may draw from.
    """

    def __init__(
        self,
        items: Iterator[Any],
        hand_out: Callable[[Any], Any],
        *,
        looks_ahead: bool,
        explain: Callable[[Exception, int], None] | None = None,
        own: Generators | None = None,
    ) -> None:
        self._items = items
        self._hand_out = hand_out
        self._looks_ahead = looks_ahead
        self._keeps_state = looks_ahead
        self._explain = explain
        self._own = own
        self._num_handed_out = 0
        self._held: Any = None
        self._before_held: HostRandomState | None = None
        self._num_wanted: int | None = None

    @property
    def state_before_held(self) -> HostRandomState | None:
        """The random state before the item that is held was fetched; None if none is held, or no state is kept."""
        return self._before_held if self._held is not None and self._held is not _END else None

    @property
    def held(self) -> Any:
        """The item that was fetched ahead; None if there is none, or fetching it failed."""
        return None if self._held is _END or type(self._held) is _Failed else self._held

    def keep_no_state(self) -> None:
        """Keep no random state: no checkpoint holds a place in this pass, so the generators need not be read."""
        self._keeps_state = False

    def want(self, number: int) -> None:
        """Fetch no more than this number of micro-batches ahead: a stream may have to wait for what nobody will use."""
        self._num_wanted = number

    def fetch_again(self, before: HostRandomState) -> None:
        """Fetch the first micro-batch now, with the random state from which it was fetched before."""
        if self._looks_ahead and self._held is None:
            before.restore(self._own)
            self._fetch()

    def _fetch(self) -> None:
        self._before_held = HostRandomState.now(self._own) if self._keeps_state else None
        try:
            self._held = next(self._items, _END)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised in its turn
            self._held = _Failed(error)

    def __next__(self) -> Any:
        if self._held is None:
            self._fetch()
        found = self._held
        if found is _END:
            raise StopIteration
        self._held = None
        if type(found) is _Failed:
            if self._explain is not None:
                self._explain(found.error, self._num_handed_out)
            raise found.error
        self._num_handed_out += 1
        if self._looks_ahead and self._num_handed_out != self._num_wanted:
            self._fetch()
        return self._hand_out(found)
