"""Reserving room for the workers of a group: what is waited for, and how long.

The wait begins with what the workers would get if nothing else ran. Where that does not come, idle workers of other
trainers are ended, a default share shrinks (``driver/share.py``), and after some seconds the user reads what is waited
for and who holds it (``driver/placement_words.py``). A wait that cannot end is an error at once, and any other one
after ``placement_timeout_s`` (``driver/patience.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from ray.util.placement_group import PlacementGroup

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.capacity import Allocation
from raytrainer.driver.elastic_size import fewer_after, least_of
from raytrainer.driver.patience import Patience
from raytrainer.driver.placement_words import Wait, no_room_text, smaller_text
from raytrainer.driver.ray_tables import Tables
from raytrainer.driver.room import Room, remove
from raytrainer.driver.share import room_without, share_beside_others, share_of_own
from raytrainer.errors import PlacementError
from raytrainer.telemetry.events import Note

ROUND_S = 2.0
"""How long room is waited for before it is looked at what else could be had. Ray takes a moment to free what ended."""
FREED_S = 15.0
"""How long workers of this process that are being ended may take."""

_being_freed: set[str] = set()
"""Placement groups of this process whose workers are being ended."""


class Reservation:
    """Room for the workers of a group, and what each of them gets."""

    is_own = True
    """It was reserved for this group, and nothing else is to use it."""

    def __init__(self, room: Room, allocation: Allocation) -> None:
        self.room = room
        self.allocation = allocation
        self.more: PlacementGroup | None = None
        """Room that is kept for more workers until these have left theirs."""

    def will_be_released(self) -> None:
        """The workers are being ended, so other trainers of this process may count on the room."""
        _being_freed.add(self.room.id)

    def release(self) -> None:
        """Give the room back; what still runs there ends. Can be called again."""
        _being_freed.discard(self.room.id)
        remove(self.room.group)
        if self.more is not None:
            remove(self.more)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where the trainer runs."""

    node: str
    """Id of the node."""
    resource: str
    """Ray's resource that only this node has."""
    own: dict[str, float]
    """What the actor or task in which the trainer runs reserved."""


class View(Protocol):
    """What is asked of Ray while room is waited for."""

    def begin(self, allocation: Allocation) -> PlacementGroup:
        """Ask for room."""
        ...

    def is_there(self, timeout_s: float) -> bool:
        """Wait for the room that was asked for last."""
        ...

    def cancel(self, group: PlacementGroup) -> None:
        """Ask no more."""
        ...

    def tables(self) -> Tables:
        """The cluster as it is now."""
        ...

    def make_room(self, tables: Tables) -> None:
        """End idle workers of other trainers."""
        ...

    def holders(self, tables: Tables, waiting: PlacementGroup) -> list[str]:
        """Who holds what, one line each."""
        ...


def reserve(
    args: TrainingArguments,
    whole: Allocation,
    view: View,
    place: Place,
    *,
    show: Callable[[object], None],
    clock: Callable[[], float] = time.monotonic,
) -> Reservation:
    """Wait for room for a group of workers.

    Args:
        args: What the user left open, and how long to wait.
        whole: The workers, as if nothing else ran in the cluster.
        view: Ray.
        place: Where the trainer runs.
        show: Renders a note.
        clock: Seconds of a clock that never goes back.

    Raises:
        PlacementError: If there is no room in time, or never will be.
    """
    wait = _Waiting(args, whole, view, place, show, clock)
    try:
        return wait.run()
    except BaseException:
        view.cancel(wait.group)
        raise


class _Waiting:
    def __init__(
        self,
        args: TrainingArguments,
        whole: Allocation,
        view: View,
        place: Place,
        show: Callable[[object], None],
        clock: Callable[[], float],
    ) -> None:
        self._args = args
        self._whole = whole
        self._view = view
        self._place = place
        self._show = show
        self._patience = Patience(args.placement_timeout_s, show, clock)
        self._wanted: Allocation = whole
        self.group = view.begin(whole)

    def run(self) -> Reservation:
        while not self._view.is_there(ROUND_S):
            tables = self._view.tables()
            self._view.make_room(tables)
            if _being_freed and self._patience.age_s < FREED_S:
                continue
            self._want(self._best(tables))
            self._check(tables)
        if self._wanted != self._whole:
            text = smaller_text(self._args, self._whole, self._wanted, self._place.own)
            self._show(Note(text=text, level="warning"))
        return Reservation(Room(group=self.group, num_workers=self._wanted.num_workers), self._wanted)

    def _best(self, tables: Tables) -> Allocation:
        free, place = tables.free_nodes, self._place
        own = share_of_own(self._args, self._whole, free, place.own, place.resource)
        best = own or share_beside_others(self._args, self._whole, free)
        return fewer_after(self._patience.waited_s, self._args, best, free)

    def _want(self, allocation: Allocation) -> None:
        if allocation != self._wanted:
            self._view.cancel(self.group)
            self._wanted = allocation
            self.group = self._view.begin(allocation)

    def _check(self, tables: Tables) -> None:
        wait = Wait(
            args=self._args,
            wanted=self._wanted,
            tables=tables,
            holders=self._view.holders(tables, self.group),
        )
        if self._is_hopeless(tables):
            raise PlacementError(no_room_text(wait, own=self._place.own))
        self._patience.look(wait)

    def _is_hopeless(self, tables: Tables) -> bool:
        """Even if all others ended, what this process itself reserved would be in the way."""
        if not self._place.own or tables.is_growing or self._wanted.shared_cores:
            return False
        if tables.can_grow and self._patience.waited_s < self._args.cluster_timeout_s:
            return False
        room = room_without(self._args, self._wanted, tables.nodes, self._place.own, self._place.node)
        return room < least_of(self._args, self._wanted).num_workers
