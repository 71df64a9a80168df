"""What the driver does while the room of a group is lost: a node died, and Ray looks for another place for its part.

Ray Train tries to start workers there again and again. The wait has the bound, notes and error of the first one.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.patience import Patience
from raytrainer.driver.placement_words import Wait
from raytrainer.driver.ray_tables import Tables
from raytrainer.driver.reservation import Reservation

LOOK_S = 5.0
"""How often it is looked."""


class LostRoom:
    """Watches the room of one group.

    Args:
        args: How long to wait.
        reservation: The room.
        read_tables: Reads Ray's tables.
        holders_of: Who holds what, one line each.
        show: Renders a note.
        clock: Seconds of a clock that never goes back.
    """

    def __init__(
        self,
        args: TrainingArguments,
        reservation: Reservation,
        *,
        read_tables: Callable[[], Tables],
        holders_of: Callable[[Tables], list[str]],
        show: Callable[[object], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._args = args
        self._reservation = reservation
        self._read_tables = read_tables
        self._holders_of = holders_of
        self._show = show
        self._clock = clock
        self._next_look_s = clock() + LOOK_S
        self._patience: Patience | None = None

    def look(self) -> None:
        """Look whether the room is there, if it is time to.

        Raises:
            PlacementError: If it has been lost for too long.
        """
        if self._clock() < self._next_look_s:
            return
        self._next_look_s = self._clock() + LOOK_S
        tables = self._read_tables()
        room = self._reservation.room.id
        if not any(group.id == room and not group.is_placed for group in tables.groups):
            self._patience = None
            return
        if self._patience is None:
            self._patience = Patience(self._args.placement_timeout_s, self._show, self._clock)
        self._patience.look(
            Wait(
                args=self._args,
                wanted=self._reservation.allocation,
                tables=tables,
                holders=self._holders_of(tables),
            )
        )
