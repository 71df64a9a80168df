"""One training run of a trial, which stops at each evaluation until the sweep has decided how it goes on.

``train()`` runs in a thread of the trial's process, and its workers wait where they have evaluated. So a scheduler
decides on what it has seen, not on what has happened since; and a trial that is stopped gives its workers back at once.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrainer.driver.trial_room import TrialRoom
from raytrainer.driver.workers import Workers
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.console import Renderer
from raytrainer.telemetry.events import Evaluated
from raytrainer.telemetry.shown import Shown
from raytrainer.trainer_protocol import TrainerProtocol

_LOOK_S = 0.5
"""How often a trial looks whether it is to stop [s]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """Training ended."""

    error: BaseException | None
    final_metrics: dict[str, float] | None
    """What an evaluation after training gave, if there was none before."""


class TrialRun:
    """One ``train()`` call of a trial.

    Args:
        trainer: The trial's own trainer.
        resume_from: A committed checkpoint to begin from.
        reported_step: The step of the last evaluation that the sweep knows; it and those before are not reported again.
    """

    def __init__(self, trainer: Any, *, resume_from: str | None = None, reported_step: int = -1) -> None:
        self._trainer = trainer
        self._resume_from = resume_from
        self._news: queue.Queue[Evaluated | Finished] = queue.Queue()
        self._decisions: queue.Queue[Command] = queue.Queue()
        self._is_waiting = False
        self._has_ended = False
        self._last_reported = reported_step
        self._thread: threading.Thread | None = None
        self._is_stopping: Command | None = None

    def next(self, *, unless: Callable[[], bool] = lambda: False) -> Evaluated | Finished | None:
        """Let training go on to its next evaluation, or to its end, and wait for that.

        Args:
            unless: Asked often; once it is true, this returns None, and training is still going on.
        """
        if unless():
            return None
        if self._thread is None:
            self._thread = threading.Thread(target=self._train, name="raytrainer-trial", daemon=True)
            self._thread.start()
        elif self._is_waiting:
            self._is_waiting = False
            self._decisions.put(Command.NONE)
        while True:
            try:
                news = self._news.get(timeout=_LOOK_S)
            except queue.Empty:
                if unless():
                    return None
                continue
            self._is_waiting = isinstance(news, Evaluated)
            self._has_ended = isinstance(news, Finished)
            return news

    def stop(self, command: Command = Command.STOP) -> Finished | None:
        """End training where it stands, and wait until its workers are free."""
        if self._thread is None or self._has_ended:
            return None
        self._is_stopping = command
        if self._is_waiting:
            self._decisions.put(command)
        while True:
            # More than once: workers that are not ready yet for the task do not hear it.
            self._trainer._process.workers.ask(command)
            with contextlib.suppress(queue.Empty):
                news = self._news.get(timeout=_LOOK_S)
                if isinstance(news, Finished):
                    self._has_ended = True
                    self._thread.join()
                    return news
                self._decisions.put(command)

    def decide(self, event: Evaluated) -> Command:
        """Called in the thread that trains: hand out an evaluation, and wait for what follows from it."""
        if event.step <= self._last_reported:
            return Command.NONE  # Evaluated again after a restart.
        self._last_reported = event.step
        self._news.put(event)
        return self._decisions.get() if self._is_stopping is None else self._is_stopping

    def _train(self) -> None:
        try:
            self._trainer.train(resume_from_checkpoint=self._resume_from, trial=self._trainer._trial)
            metrics = None
            if self._last_reported < 0 and self._is_stopping is None:
                metrics = self._trainer.evaluate()
            self._news.put(Finished(error=None, final_metrics=metrics))
        except BaseException as error:  # noqa: BLE001 - the thread that asks for news raises it
            self._news.put(Finished(error=error, final_metrics=None))


def workers_for(run: Callable[[], TrialRun], room: TrialRoom | None) -> Workers:
    """Make workers whose evaluations are decided on by the run of the moment, and whose progress goes to a file."""
    return Workers(room=room, decide=lambda event: run().decide(event), open_renderer=_open_log)


class _LogFile(Renderer):
    """Writes what a terminal would show into a file, and closes it when the call has ended."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", encoding="utf-8")
        super().__init__(self._file, shown=lambda: Shown(progress=False), width=120)

    def close(self) -> None:
        super().close()
        self._file.close()


def _open_log(trainer: TrainerProtocol) -> Renderer:
    return _LogFile(Path(str(trainer.args.output_dir)) / "logs" / "driver.log")
