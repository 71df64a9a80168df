"""A trainer for people who hold a ``ray.tune.Tuner`` of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import ray.tune

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.cluster import connect
from raytrainer.errors import ConfigurationError
from raytrainer.tune.checks import check_saves
from raytrainer.tune.objective import Objective, parse_directions
from raytrainer.tune.reservation import resources
from raytrainer.tune.shared_data import shared_data
from raytrainer.tune.sweep import Sweep, arguments_of_trial
from raytrainer.tune.travel import ship_to_trials
from raytrainer.tune.trial import Trial


def trainable(
    trainer: object,
    *,
    compute_objective: Callable[[dict[str, float]], Any] | str | None = None,
    direction: str = "minimize",
) -> type[ray.tune.Trainable]:
    """Make a trainable of a trainer, for ``ray.tune.Tuner(trainable(trainer), param_space=...)``.

    Each evaluation is one result: the metrics as ``evaluate()`` names them (``eval_loss``, ...), ``step``, ``epoch``
    and ``checkpoint``. A trial reserves a bundle for each of its workers. With ``TuneConfig(reuse_actors=True)``
    workers are handed from one trial to the next, which saves their start.

    Args:
        trainer: A trainer with ``model_init=`` or a named model, to whose arguments the trial's values are applied; or
            a function ``config -> Trainer``, which reads them itself; it is called in the trial's process, and on the
            driver to see how many workers its arguments ask for.
        compute_objective: ``metrics -> number``, or the name of a metric; reported as ``objective`` too.
        direction: ``"minimize"`` or ``"maximize"``; a NaN objective becomes the worst value.

    Raises:
        ConfigurationError: If trials would share one model, or it cannot be sent to them.
    """
    given = cast("Any", trainer)
    is_factory = not hasattr(given, "args")
    if is_factory and not callable(trainer):
        raise ConfigurationError(
            f"trainable() got a {type(trainer).__name__}; a Trainer was expected, or a function config -> Trainer."
        )
    if not is_factory and given.model_init is None and not isinstance(given._own_model, str):
        raise ConfigurationError(
            "trainable() needs a new model for each trial, but this trainer was given one model. Pass model_init=, or "
            "the model's name or path as model=."
        )
    if not is_factory:
        check_saves(given.args)
    objective = None
    if compute_objective is not None:
        objective = Objective(directions=parse_directions(direction), compute=compute_objective, metric=None)
    connect(None if is_factory else given.args.ray_address)
    reserved = _reserved_by(given) if is_factory else _reserved_with(given.args)
    with shared_data(trainer):
        sweep = Sweep(trainer=ship_to_trials(trainer), objective=objective, is_factory=is_factory)

    # Tune sends this along with each trial, so it must not hold the trainer.
    with_sweep = cast("Any", ray.tune.with_parameters(cast("Any", Trial), sweep=sweep))
    return cast("Any", ray.tune.with_resources(with_sweep, cast("Any", reserved)))


def _reserved_by(factory: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    def reserved(config: dict[str, Any]) -> Any:
        args = factory(config).args
        check_saves(args)
        return resources(args)

    return reserved


def _reserved_with(args: TrainingArguments) -> Callable[[dict[str, Any]], Any]:
    return lambda config: resources(arguments_of_trial(args, config))
