"""The processes of the ranks, and where each of them was when the driver asked last."""

from __future__ import annotations

from collections.abc import Sequence

from raytrainer.wire.messages import Place, RankProcess, Ranks


class RankPlaces:
    """Those of one attempt."""

    def __init__(self) -> None:
        self.request = 0
        """Number of the driver's last request."""
        self._processes: dict[int, RankProcess] = {}
        self._places: dict[int, Place] = {}

    def begin_attempt(self) -> None:
        """Other processes take the places of these."""
        self._processes.clear()
        self._places.clear()

    def add(self, process: RankProcess) -> None:
        """A rank says which process it is."""
        self._processes[process.rank] = process

    def ask(self) -> None:
        """Ask all ranks where they are."""
        self.request += 1
        self._places.clear()

    def tell(self, request: int, place: Place) -> None:
        """A rank answers a request."""
        if request == self.request:
            self._places[place.rank] = place

    def found(self) -> Ranks:
        """What is known after the last request."""
        silent: Sequence[RankProcess] = [
            process for rank, process in sorted(self._processes.items()) if rank not in self._places
        ]
        return Ranks(places=[self._places[rank] for rank in sorted(self._places)], silent=list(silent))
