"""Evaluations of a trainer in a function that a user gave to Ray Tune, reported where Tune's session is.

A callback runs on a worker, where ``ray.tune.report`` does nothing but warn. The trial's own thread waits in
``train()`` meanwhile, so it can report, and wait for what the scheduler decides.
"""

from __future__ import annotations

from typing import Any

import ray.tune

from raytrainer.driver.trial_room import claim_output_dir, current_room, is_trial_function
from raytrainer.driver.workers import Workers
from raytrainer.errors import ConfigurationError
from raytrainer.runtimes.base import Command
from raytrainer.telemetry.events import Evaluated


def report_evaluations(trainer: Any) -> None:
    """Report each evaluation of this trainer's training to Ray Tune, so that schedulers see it.

    Call it before ``train()`` in the function that Tune runs. A result has the metrics as ``evaluate()`` names them,
    ``step``, ``epoch``, and as ``checkpoint`` the path of the newest committed one.

    Args:
        trainer: Has not trained yet.

    Raises:
        ConfigurationError: If no function of Ray Tune runs in this process, or another trial has this ``output_dir``.
    """
    if not is_trial_function():
        raise ConfigurationError(
            "report_evaluations() was called in a process where no function of Ray Tune runs. Call it in the function "
            "that you give to ray.tune.Tuner; hyperparameter_search and raytrainer.tune.trainable report by themselves."
        )
    claim_output_dir(str(trainer.args.output_dir))
    Workers(room=current_room(), decide=_report).hand_over(trainer)


def _report(event: Evaluated) -> Command:
    found = {"step": event.step, "epoch": event.epoch, "checkpoint": event.checkpoint}
    ray.tune.report({**event.metrics, **found})
    return Command.NONE
