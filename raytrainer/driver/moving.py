"""What the driver does when a node on which its workers run is drained: it moves the workers to other nodes in time.

Whoever takes a node away may tell Ray first: an autoscaler, ``ray drain-node``, or the end of a spot instance, which
sends SIGTERM to ``ray start --block``. Ray gives such a node no new work. The driver asks the ranks to save together
and to leave (``Command.MOVE``). Then it gives their room back and asks for another one, which Ray finds on nodes that
stay, or on those that come; ``driver/lost_room.py`` bounds that wait.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from raytrainer.control.state import Update
from raytrainer.driver.ray_tables import DrainedNode
from raytrainer.driver.reservation import Reservation, View
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import Note

LOOK_S = 1.0
"""How often it is looked whether nodes are drained. A spot instance may have no more than 30 s left."""


class Asks(Protocol):
    """What is asked of the workers' control actor."""

    def send_command(self, command: Command) -> None:
        """Ask something of the running task."""
        ...

    def set_room(self, room: object) -> None:
        """Say where workers run when they are started next; None if that is not known yet."""
        ...


class Moving:
    """Moves the workers of one group.

    Args:
        reservation: Their room.
        control: Their control actor.
        view: Ray.
        read_drained: Reads which nodes are about to go.
        show: Renders a note.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        reservation: Reservation,
        control: Asks,
        view: View,
        *,
        read_drained: Callable[[], list[DrainedNode]],
        show: Callable[[object], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reservation = reservation
        self._control = control
        self._view = view
        self._read_drained = read_drained
        self._show = show
        self._clock = clock
        self._next_look_s = clock()
        self._told: set[str] = set()
        """Nodes of which the user has read."""
        self._is_waiting = False
        """Another room has been asked for."""
        self._left_in: int | None = None
        """The last start of the workers in which they left their room."""

    def look(self) -> None:
        """Look whether a node of the room is drained, and whether the room that was asked for is there."""
        if self._is_waiting:
            self._look_for_room()
        elif self._clock() >= self._next_look_s:
            self._next_look_s = self._clock() + LOOK_S
            self._look_at_nodes()

    def follow(self, update: Update) -> None:
        """Begin to wait for another room when the workers have left theirs."""
        if not self._has_left(update):
            return
        if not self._reservation.is_own:
            self._control.set_room(self._reservation.room)  # Its owner has no other one.
            return
        self._view.cancel(self._reservation.room.group)
        self._reservation.room = replace(
            self._reservation.room, group=self._view.begin(self._reservation.allocation)
        )
        self._is_waiting = True

    def _has_left(self, update: Update) -> bool:
        """Whether the workers have left their room, the first time that this is seen.

        An update may say so although it has been given another room since.
        """
        if not update.needs_room or self._is_waiting or update.attempt == self._left_in:
            return False
        self._left_in = update.attempt
        return True

    def _look_for_room(self) -> None:
        if self._view.is_there(0.0):
            self._is_waiting = False
            self._control.set_room(self._reservation.room)

    def _look_at_nodes(self) -> None:
        drained = self._read_drained()
        if not drained or not self._reservation.is_own:
            return
        room = self._reservation.room.id
        ours = {node for group in self._view.tables().groups if group.id == room for node in group.nodes}
        found = [node for node in drained if node.id in ours]
        if found:
            self._control.send_command(Command.MOVE)  # Again: another task may run by now.
        for node in found:
            if node.id not in self._told:
                self._told.add(node.id)
                self._show(Note(text=_drained_text(node), level="warning"))


def _drained_text(node: DrainedNode) -> str:
    until = time.strftime(" until %H:%M:%S", time.localtime(node.goes_at_s)) if node.goes_at_s else ""
    return (
        f"Node {node.address}, where workers run, is drained{until}. Training saves after its current step, and goes "
        "on elsewhere."
    )
