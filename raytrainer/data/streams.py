"""Which samples of a stream a rank gets, and how reading continues in the middle of a stream.

Every rank reads the stream and keeps its slice of each round of ``world_size * batch_size`` samples, in the same order
as for map-style datasets. The last round is filled up with samples of the first.

The last sample of a micro-batch also carries a ``RoundEnd``: how many samples of its round are real, over all ranks, so
that evaluation can leave fill-ups out, and the position of the stream at that point (how many samples were read, and
the dataset's own ``state_dict()`` if it has one). So the position is that of the data handed out, however much was read
ahead.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch.utils.data import IterableDataset, get_worker_info

from raytrainer.data.batch_split import BatchSplit
from raytrainer.data.dataset_kinds import keeps_its_place


class RoundEnd(NamedTuple):
    """What the last sample of a micro-batch carries."""

    num_round: int
    """Real samples of the round, over all ranks."""
    place: dict[str, Any]
    """Position of the stream after it."""


class Item(NamedTuple):
    """A sample on its way to the collator."""

    sample: Any
    round_end: RoundEnd | None
    """On the last sample of a micro-batch."""


class Collated(NamedTuple):
    """A micro-batch on its way out of a loading process."""

    batch: Any
    process: int
    """Index of the loading process."""
    round_end: RoundEnd | None
    """None for an empty micro-batch, with which a process waits its turn."""


class RankStream(IterableDataset[Item]):
    """Yields the items of one rank.

    Args:
        dataset: The stream, the same on every rank.
        split: Says which samples this rank takes.
    """

    def __init__(self, dataset: Iterable[Any], split: BatchSplit) -> None:
        self.dataset = dataset
        self.split = split
        self.start: dict[str, Any] | None = None
        """Position at which the next pass begins; None for the start of the stream."""
        self._start_pass = -1
        self._loaded = False
        self._initial: Any = None
        # [epoch, pass]; shared with loading processes that stay for several epochs.
        self._clock = torch.zeros(2, dtype=torch.int64)

    def share_clock(self) -> None:
        """Let persistent loading processes see later epochs."""
        self._clock.share_memory_()

    def set_epoch(self, epoch: int) -> None:
        self._clock[0] = epoch
        self._set_dataset_epoch()

    def begin_pass(self) -> None:
        """Called in the main process before each pass."""
        self._clock[1] += 1

    def start_next_at(self, position: dict[str, Any]) -> None:
        """Begin the next pass (and only that one) at a position that a loader gave."""
        self.start, self._start_pass = position, int(self._clock[1]) + 1

    def skip_next(self, num_samples: int, num_processes: int = 1) -> None:
        """Begin the next pass after ``num_samples`` samples of the stream; they are read, not collated."""
        done = num_samples // self.split.round_size
        odd = num_samples % self.split.round_size if num_processes == 1 else 0
        places: list[dict[str, Any] | None] = []
        for process in range(num_processes):
            rounds = -(-(done - process) // num_processes)  # they take turns
            places.append({"samples": max(rounds, 0) * self.split.round_size + odd})
        self.start_next_at({"processes": places, "next": done % num_processes})

    def __len__(self) -> int:
        total = len(self.dataset)  # pyright: ignore[reportArgumentType]
        if self.split.world_size == 1 and not self.split.drop_last:
            return total
        rounds = (
            total // self.split.round_size if self.split.drop_last else -(-total // self.split.round_size)
        )
        return rounds * self.split.taken_size

    def _set_dataset_epoch(self) -> None:
        set_epoch = getattr(self.dataset, "set_epoch", None)
        if callable(set_epoch):
            set_epoch(int(self._clock[0]))

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        process = 0 if info is None else info.id
        if info is None and self._start_pass == int(self._clock[1]) + 1:
            self.begin_pass()  # iterated by itself, without a loader
        start = None
        if self.start is not None and self._start_pass == int(self._clock[1]):
            start = self.start["processes"][process]
            if process < self.start["next"]:
                yield from itertools.repeat(Item(None, None), self.split.taken_size)
        if info is None:
            self.start = None
        else:
            self._set_dataset_epoch()
        yield from self._rounds(start or {"samples": 0})

    def _rounds(self, start: dict[str, Any]) -> Iterator[Item]:
        samples, first = self._open(start)
        num_read, current = start["samples"], list[Any]()
        for sample in samples:
            current.append(sample)
            if len(current) < self.split.round_size:
                continue
            num_read += len(current)
            if not first and num_read == self.split.round_size and self.split.has_fill_ups:
                first = current
            yield from self._share(current, len(current), self._place(num_read))
            current = []
        if not current or self.split.drop_last:
            return
        num_real = len(current)
        place = self._place(num_read + num_real)
        if self.split.has_fill_ups:
            first = first or (current[:] if num_read == 0 else self._first_round())
            while len(current) < self.split.round_size:
                current += first[: self.split.round_size - len(current)]
        yield from self._share(current, num_real, place)

    def _open(self, start: dict[str, Any]) -> tuple[Iterator[Any], list[Any]]:
        """The rest of the stream after a position, and the first round if it was read on the way."""
        dataset: Any = self.dataset
        if "state" in start:
            self._initial = copy.deepcopy(dataset.state_dict())
            dataset.load_state_dict(copy.deepcopy(start["state"]))
            self._loaded = True
            return iter(dataset), []
        self._rewind()
        samples: Iterator[Any] = iter(dataset)
        first: list[Any] = list(itertools.islice(samples, min(start["samples"], self.split.round_size)))
        for _ in itertools.islice(samples, start["samples"] - len(first)):
            pass
        return samples, first

    def _rewind(self) -> None:
        if self._loaded:
            self.dataset.load_state_dict(self._initial)  # pyright: ignore[reportAttributeAccessIssue]
            self._loaded = False

    def _first_round(self) -> list[Any]:
        self._rewind()
        return list(itertools.islice(iter(self.dataset), self.split.round_size))

    def _place(self, num_read: int) -> dict[str, Any]:
        dataset: Any = self.dataset
        if not keeps_its_place(dataset):
            return {"samples": num_read}
        return {"samples": num_read, "state": copy.deepcopy(dataset.state_dict())}

    def _share(self, samples: list[Any], num_real: int, place: dict[str, Any]) -> Iterator[Item]:
        *before, last = self.split.taken_of(samples)
        for sample in before:
            yield Item(sample, None)
        yield Item(last, RoundEnd(num_real, place))


class CollateItems:
    """Collates the items of one micro-batch, or of one round."""

    def __init__(self, collate: Callable[[list[Any]], Any]) -> None:
        self.collate = collate

    def __call__(self, items: list[Item]) -> Collated:
        info = get_worker_info()
        process, round_end = 0 if info is None else info.id, items[-1].round_end
        batch = None if round_end is None else self.collate([item.sample for item in items])
        return Collated(batch, process, round_end)
