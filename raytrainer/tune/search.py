"""``Trainer.hyperparameter_search``: checks on the driver, a sweep with Ray Tune, and what it leaves on the trainer."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from transformers.trainer_utils import BestRun, HPSearchBackend

from raytrainer.arguments.varied import fields_that_vary, with_values
from raytrainer.driver.cluster import connect
from raytrainer.errors import ConfigurationError, RayTrainerError
from raytrainer.tune.checks import by_objective, check_sampler, check_sweep
from raytrainer.tune.objective import Objective, parse_directions
from raytrainer.tune.options import SweepOptions, read_options
from raytrainer.tune.results import SweepResult, TrialResult
from raytrainer.tune.space import Space

logger = logging.getLogger(__name__)

_BACKENDS = ("ray", "optuna")


def search(
    trainer: Any,
    hp_space: Space,
    compute_objective: Callable[[dict[str, float]], Any] | str | None,
    n_trials: int,
    direction: str | Sequence[str],
    backend: object,
    hp_name: Callable[[Any], str] | None,
    keywords: dict[str, Any],
) -> BestRun | list[BestRun]:
    """Run a sweep; see ``Trainer.hyperparameter_search``."""
    name = backend_name(backend)
    options = read_options(keywords)
    objective = Objective(
        directions=parse_directions(direction),
        compute=compute_objective,
        metric=trainer.args.metric_for_best_model,
    )
    options.scheduler = by_objective(options.scheduler, "scheduler", objective)
    options.search_alg = by_objective(options.search_alg, "search_alg", objective)
    check_sampler(options, name)
    check_sweep(trainer, objective, options, n_trials)
    directory = options.directory(trainer.args.output_dir)
    trainer.end()  # Its own workers would hold what the trials need.
    connect(trainer.args.ray_address)
    # Ray Tune takes a second to import, and most scripts never sweep.
    from raytrainer.tune.run import run_sweep

    # As hooks and ``state.trial_name`` of trials see them.
    trainer.hp_name, trainer.hp_search_backend = hp_name, HPSearchBackend(name)
    try:
        result = run_sweep(
            trainer,
            hp_space,
            objective=objective,
            options=options,
            directory=directory,
            num_trials=n_trials,
            backend=name,
            hp_name=hp_name,
        )
    finally:
        trainer.hp_search_backend = None
    if result.interrupted:
        logger.warning("%s was interrupted. Go on with resume=True.", result.path)
    if not result.best:
        raise RayTrainerError(no_result(result))
    leave_best(trainer, result, options)
    found = [
        BestRun(
            run_id=trial.run_id,
            objective=best_objective(result, trial),
            hyperparameters=dict(trial.hyperparameters),
            run_summary=result,
        )
        for trial in result.best
    ]
    return found if len(objective.directions) > 1 else found[0]


def backend_name(backend: object) -> str:
    """Read ``backend``.

    Raises:
        ConfigurationError: If there is no such backend, or not here.
    """
    name = "ray" if backend is None else str(getattr(backend, "value", backend))
    if name in _BACKENDS:
        return name
    if name == "wandb":
        raise ConfigurationError(
            "backend='wandb' is not available: its sweeps are run by agents of Weights & Biases, one process for each "
            "trial, where Ray could neither place nor restart workers. Use backend='ray', and report_to='wandb' to see "
            "the trials there."
        )
    raise ConfigurationError(f"backend={backend!r} is not one of {', '.join(_BACKENDS)}.")


def best_objective(result: SweepResult, trial: TrialResult) -> float | list[float]:
    """The objective of a trial as ``BestRun`` has it."""
    found = result.objectives(trial) or []
    return found if len(result.directions) > 1 else found[0]


def leave_best(trainer: Any, result: SweepResult, options: SweepOptions) -> None:
    """Give the trainer the arguments of the best trial, and its weights if they were asked for."""
    best = result.best[0]
    known = fields_that_vary(trainer.args)
    values = {name: value for name, value in best.hyperparameters.items() if name in known}
    trainer._use_arguments(with_values(trainer.args, values))
    trainer._trial = dict(best.hyperparameters)
    if options.load_best:
        checkpoint = result.best_checkpoint(best)
        if checkpoint is None:
            raise ConfigurationError(
                "load_best=True, but the best trial saved no checkpoint. Set save_strategy to eval_strategy."
            )
        load_weights(trainer, Path(checkpoint))


def load_weights(trainer: Any, checkpoint: Path) -> None:
    """Load the weights of a checkpoint into the trainer's model, on the driver."""
    from raytrainer.checkpoint.model_files import load_model_weights

    load_model_weights(trainer.model, checkpoint)


def no_result(result: SweepResult) -> str:
    """The message for a sweep of which no trial gave a number."""
    if result.interrupted:
        return "The sweep was interrupted before a trial gave an objective. Go on with it: resume=True."
    failed = [trial for trial in result.trials if trial.error is not None]
    first = f" The first failure, of {failed[0].run_id}: {failed[0].error}" if failed else ""
    return (
        f"None of the {len(result.trials)} trials gave an objective ({len(failed)} failed).{first} Their logs are in "
        f"{os.path.join(result.path, '<trial>', 'logs')}."
    )
