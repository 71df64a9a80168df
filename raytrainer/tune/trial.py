"""A trial as Ray Tune sees it: a class that begins, gives one evaluation after the other, saves, restores and ends.

Its process is a driver of its own, whose workers run in the placement group that Tune reserved for the trial. Tune's
checkpoint of a trial is the checkpoint that the workers committed, not a copy of it.
"""

from __future__ import annotations

import json
import logging
import os
import time
from pathlib import Path
from typing import Any, cast

import ray.tune
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint
from ray.tune.result import RESULT_DUPLICATE, SHOULD_CHECKPOINT

from raytrainer.driver.trial_room import current_room
from raytrainer.errors import ConfigurationError
from raytrainer.runtimes.base import Command
from raytrainer.tune.interruption import INTERRUPTED, is_stop_requested
from raytrainer.tune.results import ENDING_NAME
from raytrainer.tune.resume_point import note_reported, reported_step, resume_point
from raytrainer.tune.sweep import Sweep
from raytrainer.tune.trial_run import Finished, TrialRun, workers_for

logger = logging.getLogger(__name__)


class Trial(ray.tune.Trainable):
    """Trains one trainer with the hyperparameters of a trial."""

    def setup(self, config: dict[str, Any], sweep: Sweep | None = None) -> None:
        """Tune calls this once for each process."""
        assert sweep is not None
        # It would tell users, in each process, to hand processes on to later trials, which they do.
        logging.getLogger("ray.tune.trainable.trainable").setLevel(logging.WARNING)
        self._sweep = sweep
        if sweep.traceparent is not None:
            os.environ["TRACEPARENT"] = sweep.traceparent
        self._workers = workers_for(lambda: self._run, current_room())
        self._begin(config)

    def _begin(self, config: dict[str, Any]) -> None:
        directory = self._directory()
        (directory / ENDING_NAME).unlink(missing_ok=True)
        trainer = self._sweep.make_trainer(config, directory, str(cast("Any", self.trial_id)))
        self._workers.hand_over(trainer)
        self._trainer = trainer
        self._run = TrialRun(trainer)
        self._checkpoint: str | None = None
        # What an earlier process of this trial left, if Tune had no checkpoint of it yet.
        self._reported_step = reported_step(directory)
        left = resume_point(directory, self._reported_step)
        if left is not None:
            self._go_on_from(str(left))

    def step(self) -> dict[str, Any]:
        """Train to the next evaluation."""
        news = self._run.next(unless=self._is_to_stop)
        if news is None:
            return self._interrupt()
        if isinstance(news, Finished):
            return self._finish(news)
        self._checkpoint = news.checkpoint
        try:
            objective = self._objective_of(news.metrics)
        except ConfigurationError as error:
            return self._fail(error)
        note_reported(self._directory(), news.step)
        is_done = news.step >= news.max_steps
        if is_done:
            # Nothing is left to decide, and a scheduler that paused it here would have it started again for nothing.
            ended = self._run.next()
            if isinstance(ended, Finished) and ended.error is not None:
                return self._fail(ended.error)
            self._write_ending("finished", step=news.step)
        return {
            **news.metrics,
            **objective,
            "step": news.step,
            "max_steps": news.max_steps,
            "epoch": news.epoch,
            "checkpoint": news.checkpoint,
            "done": is_done,
            SHOULD_CHECKPOINT: True,
        }

    def _finish(self, ended: Finished) -> dict[str, Any]:
        if ended.error is not None:
            return self._fail(ended.error)
        state = self._trainer.state
        is_early = state.global_step < state.max_steps
        self._write_ending("ended early" if is_early else "finished", step=state.global_step)
        if ended.final_metrics is None:
            return {RESULT_DUPLICATE: True, "done": True}
        found = {"step": state.global_step, "max_steps": state.max_steps, "epoch": state.epoch, "done": True}
        return {**ended.final_metrics, **self._objective_of(ended.final_metrics), **found}

    def _is_to_stop(self) -> bool:
        return is_stop_requested(self._directory().parent)

    def _interrupt(self) -> dict[str, Any]:
        """Save and stop with the sweep, whose driver waits for that."""
        ended = self._run.stop(Command.STOP_AFTER_SAVE)
        if ended is not None and ended.error is not None:
            return self._fail(ended.error)
        self._end_workers()
        self._write_ending(INTERRUPTED, step=self._trainer.state.global_step)
        while self._is_to_stop():
            time.sleep(0.1)
        return {**cast("dict[str, Any]", self._last_result or {}), "done": False}

    def _fail(self, error: BaseException) -> dict[str, Any]:
        """A failure that the trial's own restarts could not mend, or a mistake, is not worth another process."""
        self._write_ending("failed", error=str(error))
        if not self._sweep.reports_failures:
            raise error
        objective = self._sweep.objective
        worst = {} if objective is None else objective.worst
        return {
            **worst,
            "error": str(error),
            "bad_input": isinstance(error, ConfigurationError),
            "step": self._trainer.state.global_step,
            "done": True,
        }

    def _objective_of(self, metrics: dict[str, float]) -> dict[str, float]:
        return {} if self._sweep.objective is None else self._sweep.objective.of(metrics)

    def _write_ending(self, state: str, **more: object) -> None:
        path = Path(self._trainer.args.output_dir) / ENDING_NAME
        path.write_text(json.dumps({"state": state, **more}) + "\n", encoding="utf-8")

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Begin another trial in this process, on the same workers."""
        self._run.stop()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        """End the workers; Tune removes the placement group after this."""
        # Whoever ends a trial in the middle may want to go on with it.
        self._run.stop(Command.STOP_AFTER_SAVE)
        self._end_workers()

    def _end_workers(self) -> None:
        self._trainer._process.weights_are_on_workers = False  # They are in its checkpoints.
        self._workers.end(self._trainer)

    def save(self, checkpoint_dir: str | None = None) -> _TrainingResult:
        """Name the checkpoint that the workers committed; nothing is copied."""
        del checkpoint_dir
        last = cast("dict[str, Any]", self._last_result or {})
        found = None if self._checkpoint is None else Checkpoint(self._checkpoint)
        return _TrainingResult(checkpoint=found, metrics=last)

    def restore(self, checkpoint_path: Any) -> None:
        """Begin from a checkpoint: of this trial before it was paused or killed, or of the trial that PBT clones.

        Its own newest commit may be newer than what Tune knows, which also may have been deleted since.
        """
        directory = self._directory()
        named = Path(checkpoint_path.checkpoint.path)
        known: dict[str, Any] = checkpoint_path.metrics or {}
        self._reported_step = int(known.get("step", -1))
        if named.parent == directory:
            self._reported_step = max(self._reported_step, reported_step(directory))
            own = resume_point(directory, self._reported_step)
            if own is not None:
                checkpoint_path = _TrainingResult(
                    checkpoint=Checkpoint(str(own)), metrics=checkpoint_path.metrics
                )
        super().restore(checkpoint_path)

    def load_checkpoint(self, checkpoint: str | Path) -> None:
        """Called by ``restore``."""
        self._go_on_from(str(checkpoint))

    def _go_on_from(self, checkpoint: str) -> None:
        self._checkpoint = checkpoint
        self._run = TrialRun(self._trainer, resume_from=checkpoint, reported_step=self._reported_step)

    def _directory(self) -> Path:
        assert self._storage is not None, "Tune gives every trial a directory"
        return Path(cast("str", self._storage.trial_fs_path))
