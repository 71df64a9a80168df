"""What is checked of a sweep before anything starts: that its trials can be compared, and do not share a model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from raytrainer.arguments.elastic import check_fixed
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError
from raytrainer.preflight.best_metric import known_metrics
from raytrainer.preflight.facts import facts_of
from raytrainer.tune.objective import Objective
from raytrainer.tune.options import SweepOptions

GO_ON_FROM_CHECKPOINTS = {
    "PopulationBasedTraining": "clones trials",
    "PB2": "clones trials",
    "HyperBandScheduler": "pauses trials, which go on later",
    "HyperBandForBOHB": "pauses trials, which go on later",
}
"""Schedulers that need the checkpoint of an evaluation -> what for."""


def check_sweep(trainer: Any, objective: Objective, options: SweepOptions, n_trials: object) -> None:
    """Check, before anything starts, that trials can be compared and do not share a model.

    Raises:
        ConfigurationError: If they cannot, or do.
    """
    args: TrainingArguments = trainer.args
    if isinstance(n_trials, bool) or not isinstance(n_trials, int) or n_trials < 1:
        raise ConfigurationError(f"n_trials={n_trials!r} is not a number of trials. Give 1 or more.")
    check_fixed(
        args, "a sweep", "Ray Tune reserves room for all workers of a trial at once, before it begins"
    )
    if trainer._process.session is not None:
        raise ConfigurationError(
            "hyperparameter_search was called in a process that trains itself (num_workers=0 after a call of train(), "
            "or a rank of a launcher). Call it on a new trainer in a script that no launcher started: trials are "
            "placed by Ray."
        )
    check_saves(args)
    if trainer.model_init is None and not isinstance(trainer._own_model, str):
        raise ConfigurationError(
            "hyperparameter_search needs a new model for each trial, but this trainer was given one model. Pass "
            "model_init=, a function that makes it, or its name or path as model=."
        )
    if trainer.eval_dataset is None:
        raise ConfigurationError(
            "hyperparameter_search compares trials by their evaluations, and this trainer has no "
            "eval_dataset. Pass one."
        )
    check_objective(known_metrics(facts_of(trainer)), objective)
    check_decisions(args, objective, options)
    if options.load_best:
        check_kept(args, options)


def check_objective(metrics: Sequence[str] | None, objective: Objective) -> None:
    """Check that an evaluation can give the objective, as far as that is known before one.

    Args:
        metrics: All that an evaluation gives; None if the user's code adds to them.
        objective: What the sweep optimizes.

    Raises:
        ConfigurationError: If it cannot.
    """
    # A function of the user's may read anything, and is called with real metrics only.
    if metrics is not None and not callable(objective.compute) and len(objective.directions) == 1:
        objective.of(dict.fromkeys(metrics, 0.0))


def check_sampler(options: SweepOptions, backend: str) -> None:
    """Check that a sampler of Optuna will be asked.

    Raises:
        ConfigurationError: If it will not.
    """
    if options.sampler is not None and (backend != "optuna" or options.search_alg is not None):
        raise ConfigurationError(
            "sampler= is one of Optuna's, so it needs backend='optuna' and no search_alg=. Set backend='optuna'."
        )


def check_decisions(args: TrainingArguments, objective: Objective, options: SweepOptions) -> None:
    """Check that the scheduler sees what it decides by.

    Raises:
        ConfigurationError: If it does not.
    """
    decides = options.scheduler is not None and type(options.scheduler).__name__ != "FIFOScheduler"
    if decides and args.eval_strategy == "no":
        raise ConfigurationError(
            f"{type(options.scheduler).__name__} decides by evaluations during training, but eval_strategy is 'no'. "
            "Set eval_strategy='steps' or 'epoch'."
        )
    if (name := type(options.scheduler).__name__) in GO_ON_FROM_CHECKPOINTS:
        check_cloning(args, name)
    if len(objective.directions) > 1:
        if not callable(objective.compute):
            raise ConfigurationError(
                "Several directions need compute_objective=, a function that returns one number for each."
            )
        if decides:
            raise ConfigurationError(
                f"{type(options.scheduler).__name__} compares trials by one number, and this sweep has "
                f"{len(objective.directions)} objectives. Leave scheduler= out."
            )


def check_cloning(args: TrainingArguments, scheduler: str) -> None:
    """Check that trials can go on from checkpoints, also from another one's with hyperparameters of their own.

    Raises:
        ConfigurationError: If they cannot.
    """
    saves_what_it_evaluates = args.save_strategy == args.eval_strategy and (
        args.save_strategy != "steps" or args.save_steps == args.eval_steps
    )
    if not saves_what_it_evaluates or args.save_only_model:
        raise ConfigurationError(
            f"{scheduler} {GO_ON_FROM_CHECKPOINTS[scheduler]}, so each evaluation needs a checkpoint. Set "
            "save_strategy to eval_strategy, with the same steps, and save_only_model=False."
        )
    if (
        GO_ON_FROM_CHECKPOINTS[scheduler] == "clones trials"
        and args.lr_scheduler_type == "reduce_lr_on_plateau"
    ):
        raise ConfigurationError(
            f"{scheduler} changes the learning rate of a trial that goes on from another one's checkpoint, and "
            "lr_scheduler_type='reduce_lr_on_plateau' does not keep the rate that it began with. Choose another one."
        )


def check_kept(args: TrainingArguments, options: SweepOptions) -> None:
    """Check that the checkpoint of the evaluation that counts will be there.

    Raises:
        ConfigurationError: If it may have been deleted, or never saved.
    """
    if args.save_strategy == "no":
        raise ConfigurationError(
            "load_best=True, but save_strategy is 'no', so no trial saves a checkpoint. Set it to eval_strategy."
        )
    if options.scope == "best" and args.save_total_limit is not None and not args.load_best_model_at_end:
        raise ConfigurationError(
            f"load_best=True with scope='best' and save_total_limit={args.save_total_limit}: the checkpoint of a "
            "trial's best evaluation may be deleted before the trial ends. Set load_best_model_at_end=True, which "
            "keeps it, or leave save_total_limit out."
        )


def by_objective(chooses: Any, kind: str, objective: Objective) -> Any:
    """Return a scheduler or searcher that compares trials by the sweep's objective.

    Args:
        chooses: As the user made it, with or without a metric; or None.
        kind: ``scheduler`` or ``search_alg``, for messages.
        objective: What trials report.

    Raises:
        ConfigurationError: If its metric is another one, or its direction the opposite one.
    """
    metric, mode = getattr(chooses, "_metric", None), getattr(chooses, "_mode", None)
    if metric is None and mode is None:
        return chooses
    names, modes = list(objective.names), list(objective.modes)
    advice = f"Leave metric= and mode= of {kind} out: direction= and compute_objective= say what is better."
    if metric is not None and metric not in (names[0], names):
        raise ConfigurationError(
            f"The metric of {kind} is {metric!r}, but trials of this sweep are compared by their 'objective'. {advice}"
        )
    if mode is not None and mode not in (modes[0], modes):
        raise ConfigurationError(
            f"{kind} has mode={mode!r}, but direction is {' and '.join(objective.directions)!r}. {advice}"
        )
    if kind == "scheduler":
        # Tune refuses one that was told the same as the sweep.
        chooses = copy.copy(chooses)
        chooses._metric = chooses._mode = None
    return chooses


def check_saves(args: TrainingArguments) -> None:
    """Trials save in the loop.

    Raises:
        ConfigurationError: If they were asked not to.
    """
    if args.async_save:
        raise ConfigurationError(
            "async_save=True commits a checkpoint some steps after its evaluation, and a sweep needs it when it "
            "decides on the evaluation. Leave async_save out: trials then write their saves in the loop."
        )
