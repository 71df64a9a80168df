"""What reading and collating a sample draws its random numbers from.

In the process that trains, from the random state of that process, as in ``transformers``: a checkpoint holds it. The
states of loading processes are in no checkpoint, and a process that starts again begins anew. So a loading process is
seeded before each sample from the seed, the epoch and the sample's place in the order of the epoch, and before each
micro-batch is collated in the same way. What is drawn for a sample is then the same in any process, on any number of
them, and after any restart.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, cast

from torch.utils.data import Dataset, get_worker_info

from raytrainer.data.own_generators import OwnGenerators
from raytrainer.random_state import kept, seed_host, seed_of

_AS_IT_IS = contextlib.nullcontext()


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
    """A sample of a stream."""

    sample: Any
    place: Place


class Read(NamedTuple):
    """What was read for a micro-batch, or for a round of them, on its way to the collator."""

    samples: Any
    """A list; where a dataset reads several at once, whatever it returned."""
    places: list[Place]
    """Those that were read."""


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

    def apart(self) -> contextlib.AbstractContextManager[None]:
        """What is seeded inside leaves the random state of a process that trains as it was."""
        return _AS_IT_IS if self.seed is None or get_worker_info() is not None else kept()


class PlacedSamples(Dataset[Read]):
    """Reads the samples at places of a map-style dataset.

    Args:
        dataset: The user's.
        draws: Seed what a sample draws; where the dataset reads several at once, what a micro-batch of them draws.
        batch_size: Samples of each micro-batch, if those of several ranks are read together.
    """

    def __init__(self, dataset: Any, draws: Draws, batch_size: int | None) -> None:
        self.dataset = dataset
        self.draws = draws
        self.batch_size = batch_size
        self.own = OwnGenerators(dataset=dataset)

    def __getitems__(self, places: list[Place]) -> Read:
        several = getattr(self.dataset, "__getitems__", None)
        if self.draws.seed is None and not callable(several):
            dataset = self.dataset
            return Read([dataset[place.index] for place in places], places)
        with self.draws.apart():
            if not callable(several):
                return Read(self._one_by_one(places), places)
            read = cast("Callable[[list[Any]], Any]", several)
            if self.batch_size is None:
                return Read(self._several(read, places), places)
            parts = [
                places[first : first + self.batch_size] for first in range(0, len(places), self.batch_size)
            ]
            return Read([sample for part in parts for sample in self._several(read, part)], places)

    def _one_by_one(self, places: list[Place]) -> list[Any]:
        dataset, draws = self.dataset, self.draws
        samples: list[Any] = []
        for place in places:
            draws.begin("sample", place, self.own)
            samples.append(dataset[place.index])
        return samples

    def _several(self, read: Callable[[list[Any]], Any], places: list[Place]) -> Any:
        self.draws.begin("sample", places[0], self.own)
        return read([place.index for place in places])


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

    def __call__(self, read: Read) -> Fetched:
        if self.draws.seed is None:
            batch = self.collate(read.samples)
        else:
            with self.draws.apart():
                self.draws.begin("collate", read.places[0], self.own)
                batch = self.collate(read.samples)
        return Fetched(batch, [place.index for place in read.places])
