"""The runtime of a rank that Ray Train started.

Ranks agree with each other over torch.distributed. They reach the driver through the control actor, and the loop never
waits for it: a thread sends events, and the command of the driver is read from a call that is already under way.
"""

from __future__ import annotations

import time
from typing import Any

import ray.train

from raytrainer.runtimes import ray_calls, termination
from raytrainer.runtimes.base import Command
from raytrainer.runtimes.event_sender import EventSender
from raytrainer.runtimes.process_group import CollectiveRuntime
from raytrainer.runtimes.ray_calls import Ref
from raytrainer.telemetry.events import Note
from raytrainer.telemetry.run_files import RunFiles, files_of_run
from raytrainer.wire.pickling import pack

COMMAND_INTERVAL_S = 0.05
"""How often rank 0 looks for a command of the driver."""
LONG_POLL_S = 20.0
"""How long one call waits in the control actor before it is made again."""


class RayRuntime(CollectiveRuntime):
    """One rank of a Ray Train worker group.

    Args:
        control: Handle of the control actor.
        timeout_s: Limit of a collective [s].
    """

    def __init__(self, control: Any, *, timeout_s: float) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.local_rank = context.get_local_rank()
        self.world_size = context.get_world_size()
        self.local_world_size = context.get_local_world_size()
        self.attempt = 0
        self.run_id = ""
        self._control = control
        self._events: EventSender | None = None
        self._files: RunFiles | None = None
        self._command = Command.NONE
        self._command_call: Ref[int | None] | None = None
        self._is_decided_by_driver = False
        self._has_told_sigterm = False
        self._last_look_s = 0.0
        self.open_group(timeout_s)

    def start_attempt(self, attempt: int) -> None:
        """All ranks: the control actor has numbered this start of the workers."""
        self.attempt = attempt
        self._events = EventSender(self._control, attempt)

    def start_task(self, restarts: int, *, is_decided_by_driver: bool = False) -> None:
        """All ranks: a task begins.

        Args:
            restarts: How often the workers were started again since it began.
            is_decided_by_driver: The driver decides after each evaluation whether training goes on.
        """
        self.attempt = restarts
        self._command = Command.NONE
        self._command_call = None  # Its answer would be what was asked of the task before.
        termination.forget()
        self._has_told_sigterm = False
        self._is_decided_by_driver = is_decided_by_driver

    def command(self) -> Command:
        return max(self._command_of_system(), self._command_of_driver())

    def _command_of_system(self) -> Command:
        """What SIGTERM to this process asks for: the rest of the run is done elsewhere."""
        if not termination.was_asked_to_end():
            return Command.NONE
        if not self._has_told_sigterm:
            self._has_told_sigterm = True
            text = f"rank {self.rank} got SIGTERM: saving, to go on in other workers"
            self.emit(Note(text=text, level="warning"))
        return Command.MOVE

    def _command_of_driver(self) -> Command:
        """What the driver asks for, as far as this rank knows."""
        if self.rank != 0:
            return Command.NONE  # Ranks agree on the maximum.
        now_s = time.monotonic()
        if now_s - self._last_look_s < COMMAND_INTERVAL_S:
            return self._command
        self._last_look_s = now_s
        if self._command_call is None:
            self._command_call = self._control.command.remote(int(self._command), LONG_POLL_S)
        call = self._command_call
        assert call is not None
        if ray_calls.is_ready(call):
            self._command_call = None
            changed = ray_calls.get(call)
            if changed is not None:
                self._command = Command(changed)
        return self._command

    def record_in(self, location: str) -> None:
        """Rank 0: record what happens in a directory or bucket. The driver records what people are told."""
        if self._files is not None:
            self._files.close()
        self._files = files_of_run(
            location, rank=self.rank, run=lambda: (self.run_id, self.attempt), tells=False
        )

    def share_records(self) -> None:
        """This rank: bring what it has recorded to where others see it."""
        if self._files is not None:
            self._files.close()

    def emit(self, event: object) -> None:
        if self._files is not None:
            self._files.handle(event)
        if self._events is not None:
            self._events.emit(event)

    def consult(self, step: int, event: object) -> None:
        self.emit(event)
        if not self._is_decided_by_driver:
            return
        self.flush()
        command: int | None = None
        while command is None:
            call: Ref[int | None] = self._control.decision.remote(step, LONG_POLL_S)
            command = ray_calls.get(call)
        self._command = Command(command)

    def store_final_weights(self, weights: object) -> None:
        """Rank 0: leave weights with the control actor, where the driver finds them after the workers have ended."""
        ray_calls.get(self._control.store_final_weights.remote(pack(weights)))

    def flush(self) -> None:
        """Wait until the control actor has all events."""
        if self._events is not None:
            self._events.flush()

    def close(self) -> None:
        """Stop sending events."""
        if self._events is not None:
            self._events.close()
