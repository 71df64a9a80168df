"""What Ctrl-C does to a sweep: the first one lets running trials save and stop, the second one stops them at once.

A trial's process is busy with its training run, so it cannot be called. It looks for a file in the sweep's directory,
which every trial reads and writes anyway. Once all running trials have saved, Ray Tune is told to end; it has a signal
of its own for that, SIGUSR1, and keeps trials that it interrupts as unfinished, so that they go on when the sweep does.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from types import FrameType

logger = logging.getLogger(__name__)

REQUEST_NAME = "stop-request"
"""In a sweep's directory while its trials are asked to save and stop."""
INTERRUPTED = "interrupted"
"""The state of a trial that saved and stopped with its sweep, and goes on with it."""


def is_stop_requested(sweep_directory: Path) -> bool:
    """Whether trials of a sweep are asked to save and stop."""
    return (sweep_directory / REQUEST_NAME).exists()


class Interruption:
    """Turns signals into an orderly end of a sweep.

    Args:
        directory: The sweep's.
    """

    def __init__(self, directory: Path) -> None:
        self._request = directory / REQUEST_NAME
        self.is_asked = False
        self._is_ended = False

    @contextlib.contextmanager
    def listening(self) -> Generator[None]:
        """Inside the block, Ctrl-C and SIGTERM end the sweep.

        Does nothing outside of the main thread, where Python allows no signal handlers.
        """
        self._request.unlink(missing_ok=True)  # of a sweep that was killed while it stopped
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def handle(number: int, frame: FrameType | None) -> None:
            del frame
            if self.is_asked:
                signal.signal(number, before[number])
                self._end()
            else:
                self._ask()

        for number in before:
            signal.signal(number, handle)
        tune_logger = logging.getLogger("ray.tune.tune")
        level = tune_logger.level
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            tune_logger.setLevel(level)
            self._request.unlink(missing_ok=True)

    def end_if(self, states_of_running: Callable[[], Iterable[str]]) -> None:
        """End the sweep once the trials that ran have stopped.

        Args:
            states_of_running: Gives how each trial that Tune takes for running has ended so far.
        """
        if self.is_asked and not self._is_ended and all(one == INTERRUPTED for one in states_of_running()):
            self._end()

    def _ask(self) -> None:
        self.is_asked = True
        self._request.parent.mkdir(parents=True, exist_ok=True)
        self._request.touch()
        logger.warning("Interrupted: running trials save and stop. Interrupt again to stop them at once.")

    def _end(self) -> None:
        self._is_ended = True
        logging.getLogger("ray.tune.tune").setLevel(
            logging.CRITICAL
        )  # It would explain Tune's own way to go on.
        signal.raise_signal(signal.SIGUSR1)
        self._request.unlink(missing_ok=True)
