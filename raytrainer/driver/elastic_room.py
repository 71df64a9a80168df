"""How the number of workers of an elastic run follows the room in its cluster.

Workers are never added to a group or taken out of it: all of them leave their room, the driver asks for another one,
and the control actor names it to Ray Train's controller, which starts as many workers as it is for. They go on from
the newest commit. What leads to that:

* **A node was lost.** Room for as many workers as before is waited for, ``elastic_timeout_s`` at most, then as many are
  taken as there is room for; fewer than the least number are waited for as ``placement_timeout_s`` says.
* **A node is drained.** The same, after a save (``driver/moving.py``).
* **There is room for more.** It is reserved, the ranks save at a step boundary and leave, and their room and the new
  one are exchanged for one that holds all. Room that others wait for is left to them, and ``driver/pace.py`` says when
  a change pays.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.control.state import Update
from raytrainer.driver.capacity import Node, room_for
from raytrainer.driver.elastic_size import fewer_after, num_fitting
from raytrainer.driver.moving import Asks, Moving
from raytrainer.driver.pace import Pace
from raytrainer.driver.patience import Patience
from raytrainer.driver.placement_words import Wait, fewer_text
from raytrainer.driver.ray_tables import DrainedNode, GroupRow, Tables
from raytrainer.driver.reservation import Reservation, View
from raytrainer.driver.room import Room, group_id
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import Note, TrainStarted

ROUND_S = 2.0
"""How often it is looked whether the room is still there, whether another one can be had, and whether there is more."""


class ElasticRoom(Moving):
    """Gives the workers of one group another room when there is less or more of it.

    Args:
        args: The bounds, and how long to wait.
        reservation: The room that they have.
        control: Their control actor.
        view: Ray, for the room of all workers.
        more: Ray, for the room of those that are to be added.
        read_drained: Reads which nodes are about to go.
        show: Renders a note.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        args: TrainingArguments,
        reservation: Reservation,
        control: Asks,
        view: View,
        *,
        more: View,
        read_drained: Callable[[], list[DrainedNode]],
        show: Callable[[object], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(reservation, control, view, read_drained=read_drained, show=show, clock=clock)
        self._args = args
        self._more = more
        self._most = replace(
            reservation.allocation, num_workers=args.max_workers or reservation.allocation.num_workers
        )
        self._wanted = reservation.allocation
        """What the workers have, or what is waited for."""
        self._pace = Pace(args.elastic_timeout_s, clock)
        self._patience = Patience(args.placement_timeout_s, show, clock)
        self._next_round_s = clock() + ROUND_S
        self._goal: int | None = None
        """So many workers there are to be; room for those that are missing is reserved, or about to be."""
        self._is_asked = False
        """The ranks were asked to leave for it."""
        self._num_told = reservation.allocation.num_workers

    @property
    def _num_workers(self) -> int:
        return self._reservation.allocation.num_workers

    def follow(self, update: Update) -> None:
        """Take note of what the workers do, and begin to wait for another room when they have left theirs."""
        for event in update.events:
            self._pace.note(event)
            if isinstance(event, TrainStarted):
                self._tell(event.first_step)
        if update.result is not None:
            self._pace.stop()
            self._give_up_growing()
        if self._has_left(update):
            self._begin_wait(self._goal or self._num_workers)

    def look(self) -> None:
        """Look whether the room is there, whether it is about to go, and whether there is more.

        Raises:
            PlacementError: If there has been no room for the least number of workers for too long.
        """
        super().look()
        if not self._is_waiting and self._clock() >= self._next_round_s:
            self._next_round_s = self._clock() + ROUND_S
            self._look_around(self._view.tables())

    def _tell(self, step: int) -> None:
        """Say once that there are other workers than before."""
        if self._num_workers != self._num_told:
            text = f"resized {self._num_told} -> {self._num_workers} workers at step {step}"
            self._show(Note(text=text, level="warning", kind="resize"))
            self._num_told = self._num_workers

    # ---- another room -------------------------------------------------------------------------------------------

    def _begin_wait(self, number: int) -> None:
        """Give the room back, and ask for one for a number of workers."""
        self._give_up_growing()
        self._patience = Patience(self._args.placement_timeout_s, self._show, self._clock)
        self._next_round_s = self._clock() + ROUND_S
        self._ask_for(number)
        self._is_waiting = True

    def _ask_for(self, number: int) -> None:
        self._view.cancel(self._reservation.room.group)
        self._wanted = replace(self._most, num_workers=number)
        self._reservation.room = Room(group=self._view.begin(self._wanted), num_workers=number)

    def _look_for_room(self) -> None:
        if self._view.is_there(0.0):
            self._take_room()
        elif self._clock() >= self._next_round_s:
            self._next_round_s = self._clock() + ROUND_S
            self._want(self._view.tables())

    def _take_room(self) -> None:
        if self._wanted.num_workers < self._num_workers:
            text = fewer_text(self._args, self._num_workers, self._wanted)
            self._show(Note(text=text, level="warning"))
        self._reservation.allocation = self._wanted
        self._is_waiting = False
        self._control.set_room(self._reservation.room)

    def _want(self, tables: Tables) -> None:
        """Tell what is waited for, and ask for less when it is time to."""
        self._view.make_room(tables)
        waiting = self._view.holders(tables, self._reservation.room.group)
        self._patience.look(Wait(args=self._args, wanted=self._wanted, tables=tables, holders=waiting))
        if self._patience.waited_s < self._args.elastic_timeout_s:
            return
        wanted = fewer_after(self._patience.waited_s, self._args, self._most, tables.free_nodes)
        if wanted != self._wanted:
            self._ask_for(wanted.num_workers)

    # ---- less room, or more -------------------------------------------------------------------------------------

    def _look_around(self, tables: Tables) -> None:
        row = next((group for group in tables.groups if group.id == self._reservation.room.id), None)
        if row is None or not self._reservation.is_own:
            return
        if not row.is_placed:
            # Ray Train may be starting workers there. Without the room they fail, and it asks where to start them.
            self._control.set_room(None)
            self._begin_wait(self._num_workers)
        elif self._goal is not None:
            self._grow(tables)
        elif self._num_workers < self._most.num_workers and self._pace.allows:
            self._look_for_more(tables, row)

    def _look_for_more(self, tables: Tables, row: GroupRow) -> None:
        if _is_wanted_by_others(tables):
            return
        number = num_fitting(self._args, self._most, _with_own(tables, row))
        missing = number - self._num_workers
        if missing <= 0:
            return
        self._goal = number
        if not self._args.placement_strategy.startswith("STRICT"):
            self._reservation.more = self._more.begin(replace(self._most, num_workers=missing))

    def _grow(self, tables: Tables) -> None:
        """Ask the ranks to leave when what is missing is reserved; a strict placement cannot be reserved in parts."""
        if self._is_asked:
            self._control.send_command(Command.MOVE)  # Again: it may have come before the task could hear it.
        elif not self._pace.allows or not self._has_more(tables):
            self._give_up_growing()
        else:
            self._is_asked = True
            self._control.send_command(Command.MOVE)
            text = f"there is room for {self._goal} workers: training saves after its current step"
            self._show(Note(text=f"{text}, and goes on with them"))

    def _has_more(self, tables: Tables) -> bool:
        """Whether the room for more workers is there, by Ray's tables: a task that says so takes seconds to start."""
        more = self._reservation.more
        return more is None or any(group.is_placed and group.id == group_id(more) for group in tables.groups)

    def _give_up_growing(self) -> None:
        group, self._reservation.more = self._reservation.more, None
        self._goal, self._is_asked = None, False
        if group is not None:
            self._more.cancel(group)


def _is_wanted_by_others(tables: Tables) -> bool:
    """Somebody waits for room, and could use what is free."""
    free = tables.free_nodes
    return any(
        room_for(bundle, free) > 0
        for group in tables.groups
        if not group.is_placed
        for bundle in group.bundles
    )


def _with_own(tables: Tables, row: GroupRow) -> list[Node]:
    """The nodes, with what is free there and what the room of this group holds."""
    nodes: list[Node] = []
    for node in tables.free_nodes:
        have: dict[str, float] = dict(node["Resources"])
        for bundle, place in zip(row.bundles, row.nodes, strict=False):
            if place == node.get("NodeID"):
                have = {name: have.get(name, 0.0) + bundle.get(name, 0.0) for name in {*have, *bundle}}
        nodes.append({**node, "Resources": have})
    return nodes
