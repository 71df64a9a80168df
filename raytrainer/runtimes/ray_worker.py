"""The runtime of a rank that Ray Train started.

Ranks agree with each other over torch.distributed; with the driver they talk through the control actor, which the loop
never waits for: events go up through a thread, and what the driver asks for is looked at in a call that is already
under way.
"""

from __future__ import annotations

import time
from typing import Any

import ray
import ray.train

from raytrainer.runtimes.base import Command
from raytrainer.runtimes.event_sender import Uplink
from raytrainer.runtimes.process_group import CollectiveRuntime

COMMAND_INTERVAL_S = 0.05
"""How often rank 0 looks at what the driver asks for."""
LONG_POLL_S = 20.0
"""How long one call waits in the control actor before it is made again."""


class RayRuntime(CollectiveRuntime):
    """One rank of a Ray Train worker group.

    Args:
        control: Handle of the control actor.
        timeout_s: Of collectives [s].
    """

    def __init__(self, control: Any, *, timeout_s: float) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.local_rank = context.get_local_rank()
        self.world_size = context.get_world_size()
        self.local_world_size = context.get_local_world_size()
        self.attempt = 0
        self.run_id = ""
        self.group_attempt = 0
        """Starts of the workers before this one, over all tasks; ``attempt`` counts those of the current task."""
        self._control = control
        self._uplink: Uplink | None = None
        self._command = Command.NONE
        self._command_call: Any = None
        self._looked_at = 0.0
        self.open_group(timeout_s)

    def start_attempt(self, attempt: int) -> None:
        """All ranks: the number of this attempt is known."""
        self.group_attempt = self.attempt = attempt
        self._uplink = Uplink(self._control, attempt)

    def start_task(self, restarts: int) -> None:
        """All ranks: a task begins, or begins again."""
        self.attempt = restarts
        self._command = Command.NONE

    def command(self) -> Command:
        if self.rank != 0:
            return Command.NONE  # Ranks agree on the maximum.
        now = time.monotonic()
        if now - self._looked_at < COMMAND_INTERVAL_S:
            return self._command
        self._looked_at = now
        if self._command_call is None:
            self._command_call = self._control.command.remote(int(self._command), LONG_POLL_S)
        ready, _ = ray.wait([self._command_call], timeout=0)
        if ready:
            self._command_call = None
            found = ray.get(ready[0])
            if found is not None:
                self._command = Command(found)
        return self._command

    def emit(self, event: object) -> None:
        if self._uplink is not None:
            self._uplink.emit(event)

    def park(self, value: Any) -> None:
        """Leave something with the control actor that outlives the workers; the driver reads it with ``parked``."""
        from raytrainer.wire.pickling import pack

        ray.get(self._control.park.remote(pack(value)))

    def flush(self) -> None:
        """Wait until the driver's side has all events."""
        if self._uplink is not None:
            self._uplink.flush()

    def close(self) -> None:
        """Stop sending."""
        if self._uplink is not None:
            self._uplink.close()
