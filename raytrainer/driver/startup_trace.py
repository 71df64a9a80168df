"""``debug="startup"`` on the driver: its own phases, the processes that Ray started, and the trace of all.

The driver follows a call by its events: the workers are ready when training starts, and the first step ends the start.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import psutil

from raytrainer.arguments.debugging import traces_startup
from raytrainer.driver.fork_server import state_of_server
from raytrainer.telemetry.events import Note, StepDone, TrainStarted
from raytrainer.telemetry.startup import Span, forget_spans, here, read_spans, table, write_spans, write_trace

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

_PROCESSES = {
    "gcs_server": "gcs_server",
    "raylet/raylet": "raylet",
    "log_monitor.py": "log monitor",
    "dashboard/agent.py": "dashboard agent",
    "runtime_env/agent": "runtime env agent",
    "ray::ControlActor": "control actor",
    "ray::ControllerInRoom": "Ray Train's controller",
}
"""Part of a command -> what it is."""


class StartupTrace:
    """Follows a call until its first step.

    Args:
        args: Say whether, and where the run is.
    """

    def __init__(self, args: TrainingArguments) -> None:
        self._directory = str(args.output_dir) if traces_startup(args) else None
        self._is_over = False
        here.process = here.process or "driver"
        if self._directory is not None:
            forget_spans(self._directory)

    def handle(self, event: object) -> None:
        """Take over an event of a worker."""
        if self._directory is None or self._is_over:
            return
        if isinstance(event, TrainStarted):
            here.add("waits for workers", here.last)
        elif isinstance(event, StepDone):
            here.add("waits for a step", here.last)
            self._is_over = True
            write_spans(self._directory, here.take())
            for span in _beside():
                write_spans(self._directory, [span])

    def close(self) -> Note | None:
        """The call is over: write the trace.

        Returns:
            The table; None if nobody asked.
        """
        if self._directory is None or not self._is_over:
            return None
        spans = read_spans(self._directory)
        path = write_trace(self._directory, spans)
        return Note(text=f"the start, for Perfetto in {path}:\n{table(spans)}")


def _beside() -> list[Span]:
    """Processes that this one or Ray has started, until they had computed what they have; the fork server's imports."""
    spans: list[Span] = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            command, began = " ".join(process.cmdline()), process.create_time()
            name = next((name for part, name in _PROCESSES.items() if part in command), None)
            if name is not None:
                used = process.cpu_times()
                spans.append(
                    Span(
                        process=name,
                        phase=f"CPU {used.user + used.system:.1f} s",
                        began=began,
                        ended=began + used.user + used.system,
                    )
                )
    state = state_of_server()
    if state is not None:
        spans.append(Span(process="fork server", phase="imports", began=state["began"], ended=state["ready"]))
    return spans
