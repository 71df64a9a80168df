"""Which samples of a stream a rank gets, and how reading continues in the middle of a stream.

Every rank reads the stream and keeps its slice of each round of ``world_size * batch_size`` samples, in the same order
as for map-style datasets. The last round is filled up with samples of the first.

The last sample of a micro-batch also carries a ``RoundEnd``: how many samples of its round are real, over all ranks, so
that evaluation can leave fill-ups out, and the position of the stream at that point (how many samples were read, and
the dataset's own ``state_dict()`` if it has one). So the position is that of the data handed out, however much was read
ahead.

In a loading process a sample draws its random numbers from its position (``draws``), also one that is read only to be
left out. In the process that trains it draws from the random state there; what is left out is then read with the state
that the pass began with, and leaves the state as it was.
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
from raytrainer.data.dealing import Turn
from raytrainer.data.draws import Draws, Fetched, Place, Placed, Read
from raytrainer.data.own_generators import OwnGenerators
from raytrainer.random_state import HostRandomState, drawing_from

_END = object()


class RoundEnd(NamedTuple):
    """What the last sample of a micro-batch carries."""

    num_round: int
    """Real samples of the round, over all ranks."""
    place: dict[str, Any] | None
    """Position of the stream after it; None within rounds that are dealt out together."""
    turn: Turn
    """Which micro-batch of them it is."""


class Item(NamedTuple):
    """A sample on its way to the collator."""

    placed: Placed | None
    """None where a process waits its turn, and where a micro-batch has fewer samples than items."""
    round_end: RoundEnd | None
    """On the last sample of a micro-batch."""


class Collated(NamedTuple):
    """A micro-batch on its way out of a loading process."""

    batch: Fetched | list[Fetched] | None
    """With those of all ranks where this one reads for them."""
    process: int
    """Index of the loading process."""
    round_end: RoundEnd | None
    """None for an empty micro-batch, with which a process waits its turn."""


class RankStream(IterableDataset[Item]):
    """Yields the items of one rank.

    Args:
        dataset: The stream, the same on every rank.
        split: Says which samples this rank takes.
        draws: Seed what a sample draws.
    """

    def __init__(self, dataset: Iterable[Any], split: BatchSplit, draws: Draws | None = None) -> None:
        self.dataset = dataset
        self.split = split
        self.draws = draws or Draws()
        self.own = OwnGenerators(dataset=dataset)
        self.began: HostRandomState | None = None
        """The random state with which the pass began that the next one goes on with."""
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
        if self.split.world_size == 1 and not self.split.drop_last and self.split.dealing is None:
            return total
        if self.split.drop_last:
            total -= total % self.split.round_size
        return self.split.num_turns(total) * self.split.taken_size

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
        num_read, current = start["samples"], list[Placed]()
        size = self.split.round_size
        for sample in samples:
            current.append(sample)
            if len(current) < size * self.split.step_rounds:
                continue
            if not first and num_read == 0 and self.split.has_fill_ups:
                first = current[:size]
            num_read += len(current)
            yield from self._share(current, len(current), self._place(num_read))
            current = []
        if self.split.drop_last:
            del current[len(current) // size * size :]
        if not current:
            return
        num_real = len(current)
        place = self._place(num_read + num_real)
        if self.split.has_fill_ups:
            first = first or (current[:size] if num_read == 0 else self._first_round())
            while len(current) % size:
                current += first[: -len(current) % size]
        filled = [
            Placed(one.sample, one.place._replace(position=num_read + number))
            for number, one in enumerate(current)
        ]
        yield from self._share(filled, num_real, place)

    def _open(self, start: dict[str, Any]) -> tuple[Iterator[Placed], list[Placed]]:
        """The rest of the stream after a position, and the first round if it was read on the way."""
        dataset: Any = self.dataset
        began, self.began = self.began, None
        if "state" in start:
            self._initial = copy.deepcopy(dataset.state_dict())
            dataset.load_state_dict(copy.deepcopy(start["state"]))
            self._loaded = True
            return self._read(start["samples"]), []
        self._rewind()
        samples = self._read(0)
        with drawing_from(began if start["samples"] else None, self.own):
            first = list(itertools.islice(samples, min(start["samples"], self.split.round_size)))
            for _ in itertools.islice(samples, start["samples"] - len(first)):
                pass
        return samples, first

    def _read(self, position: int) -> Iterator[Placed]:
        """The samples of the dataset as it stands now.

        Args:
            position: That of the first one [samples].
        """
        info, epoch = get_worker_info(), int(self._clock[0])
        process, reads_alone = (0, True) if info is None else (info.id, info.num_workers == 1)
        samples: Iterator[Any] | None = None
        for here in itertools.count(position):
            place = Place(here if reads_alone else f"{process}:{here}", here, epoch, process)
            with self.draws.apart():
                self.draws.begin("sample", place, self.own)
                samples = iter(self.dataset) if samples is None else samples
                found = next(samples, _END)
            if found is _END:
                return
            yield Placed(found, place)

    def _rewind(self) -> None:
        if self._loaded:
            self.dataset.load_state_dict(self._initial)  # pyright: ignore[reportAttributeAccessIssue]
            self._loaded = False

    def _first_round(self) -> list[Placed]:
        self._rewind()
        return list(itertools.islice(self._read(0), self.split.round_size))

    def _place(self, num_read: int) -> dict[str, Any]:
        dataset: Any = self.dataset
        if not keeps_its_place(dataset):
            return {"samples": num_read}
        return {"samples": num_read, "state": copy.deepcopy(dataset.state_dict())}

    def _share(self, samples: list[Placed], num_real: int, place: dict[str, Any]) -> Iterator[Item]:
        size = self.split.round_size
        turns = self.split.turns(-(-len(samples) // size))
        for number, turn in enumerate(turns, start=1):
            start = turn.round * size
            one_round = samples[start : start + size]
            *before, last = one_round if self.split.takes_rounds else self.split.part_of(one_round, turn.part)
            if number < len(turns):
                # torch's loader counts items: where another micro-batch follows, a short one has as many as a full one.
                yield from itertools.repeat(Item(None, None), self.split.taken_size - len(before) - 1)
            for placed in before:
                yield Item(placed, None)
            num_round = max(0, min(size, num_real - start))
            yield Item(last, RoundEnd(num_round, place if number == len(turns) else None, turn))


class CollateItems:
    """Collates the items of one micro-batch, or of one round."""

    def __init__(self, collate: Callable[[Read], Fetched | list[Fetched]]) -> None:
        self.collate = collate

    def __call__(self, items: list[Item]) -> Collated:
        info = get_worker_info()
        process, round_end = 0 if info is None else info.id, items[-1].round_end
        if round_end is None:
            return Collated(None, process, None)
        placed = [item.placed for item in items if item.placed is not None]
        read = Read([one.sample for one in placed], [one.place for one in placed])
        return Collated(self.collate(read), process, round_end)
