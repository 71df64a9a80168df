"""What reading and collating a sample draws its random numbers from.

In the process that trains, from the random state of that process, as in ``transformers``: a checkpoint holds it. The
states of loading processes are in no checkpoint, and a process that starts again begins anew. So a loading process is
seeded before each sample from the seed, the epoch and the sample's place in the order of the epoch, and before each
micro-batch is collated in the same way. What is drawn for a sample is then the same in any process, on any number of
them, and after any restart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from torch.utils.data import Dataset, get_worker_info

from raytrainer.data.own_generators import OwnGenerators
from raytrainer.random_state import kept, seed_host, seed_of


class Place(NamedTuple):
    """Which sample it is."""

    index: Any
    """In the dataset: what it is read by. In a stream its position."""
    position: int
    """In the order of the epoch. Samples that fill up the last round follow those of the data."""
    epoch: int
    process: int = 0
    """Index of the loading process, where each one reads a stream, or a part of one, by itself."""


class Placed(NamedTuple):
    """A sample on its way to the collator."""

    sample: Any
    place: Place


class Fetched(NamedTuple):
    """A micro-batch, and the samples that it was made of."""

    batch: Any
    indices: list[Any]
    """In the dataset."""


@dataclass(frozen=True)
class Draws:
    """Seeds what samples and micro-batches draw."""

    seed: int | None = None
    """None leaves the random state of the process alone."""

    def begin(self, what: str, place: Place, own: OwnGenerators) -> None:
        """Seed this process for one piece of work on a sample, or on the micro-batch that begins with it.

        Args:
            what: The work.
            place: That of the sample.
            own: The generators of the user's object that does the work.
        """
        if self.seed is not None:
            seed = seed_of(self.seed, what, place.epoch, place.process, place.position)
            seed_host(seed)
            own.seed(seed)

    @contextlib.contextmanager
    def apart(self) -> Generator[None]:
        """What is seeded inside leaves the random state of a process that trains as it was."""
        with contextlib.nullcontext() if self.seed is None or get_worker_info() is not None else kept():
            yield


class PlacedSamples(Dataset[Placed]):
    """Reads the samples at places of a map-style dataset.

    Args:
        dataset: The user's.
        draws: Seed what a sample draws; where the dataset reads several at once, what a micro-batch of them draws.
        batch_size: Samples of a micro-batch.
    """

    def __init__(self, dataset: Any, draws: Draws, batch_size: int) -> None:
        self.dataset = dataset
        self.draws = draws
        self.batch_size = batch_size
        self.own = OwnGenerators(dataset=dataset)

    def __getitems__(self, places: list[Place]) -> list[Placed]:
        with self.draws.apart():
            return [Placed(*one) for one in zip(self._read(places), places, strict=True)]

    def _read(self, places: list[Place]) -> Iterator[Any]:
        several = getattr(self.dataset, "__getitems__", None)
        if not callable(several):
            for place in places:
                self.draws.begin("sample", place, self.own)
                yield self.dataset[place.index]
            return
        read = cast("Callable[[list[Any]], list[Any]]", several)
        for first in range(0, len(places), self.batch_size):
            part = places[first : first + self.batch_size]
            self.draws.begin("sample", part[0], self.own)
            yield from read([place.index for place in part])


class HasPlaces(Protocol):
    """Micro-batches of a rank, as the places of their samples."""

    def places(self) -> Iterator[list[Place]]: ...

    def __len__(self) -> int: ...


class PlacedBatches:
    """The batch sampler that goes with ``PlacedSamples``."""

    def __init__(self, batches: HasPlaces) -> None:
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Place]]:
        return self.batches.places()


class PlacedCollate:
    """Collates the samples of one micro-batch."""

    def __init__(self, collate: Callable[[list[Any]], Any], draws: Draws) -> None:
        self.collate = collate
        self.draws = draws
        self.own = OwnGenerators(collator=collate)

    def __call__(self, placed: list[Placed]) -> Fetched:
        with self.draws.apart():
            self.draws.begin("collate", placed[0].place, self.own)
            batch = self.collate([one.sample for one in placed])
        return Fetched(batch, [one.place.index for one in placed])
