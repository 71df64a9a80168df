"""One sweep on Ray Tune, from its first trial to its result."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, cast

from ray import tune
from ray.tune import FailureConfig, RunConfig, TuneConfig, Tuner
from ray.tune.logger import CSVLoggerCallback, JsonLoggerCallback
from ray.tune.search import BasicVariantGenerator

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.driver.run_records import write_page
from raytrainer.driver.traced_calls import traced_sweep
from raytrainer.errors import ConfigurationError
from raytrainer.tune.interruption import Interruption
from raytrainer.tune.objective import Objective
from raytrainer.tune.options import SweepOptions
from raytrainer.tune.picture import draw
from raytrainer.tune.reservation import trial_resources
from raytrainer.tune.results import SweepResult
from raytrainer.tune.shared_data import shared_data
from raytrainer.tune.space import SearchSpace, Space, optuna_search, read_space
from raytrainer.tune.sweep import Sweep
from raytrainer.tune.table import SweepTable
from raytrainer.tune.travel import ship_to_trials
from raytrainer.tune.trial import Trial
from raytrainer.tune.watch import StopSweep, Watcher

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    # Only what is asked for reports; TensorBoard would have every trial twice.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "2",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # The output that says nothing if it is told to.
    "RAY_AIR_NEW_OUTPUT": "0",
}
"""While a sweep runs, unless the user has set them."""


def run_sweep(
    trainer: Any,
    hp_space: Space,
    *,
    objective: Objective,
    options: SweepOptions,
    directory: Path,
    num_trials: int,
    backend: str,
    hp_name: Callable[[Any], str] | None,
) -> SweepResult:
    """Run a sweep, or go on with one.

    Args:
        trainer: Each trial begins with a copy of it.
        hp_space: What varies.
        objective: What is optimized.
        options: How it runs.
        directory: The sweep's directory.
        num_trials: Samples of the space.
        backend: ``ray`` or ``optuna``.
        hp_name: Names a trial by its hyperparameters.

    Raises:
        ConfigurationError: For a space, resources or an objective that cannot be.
    """
    args: TrainingArguments = trainer.args
    space = read_space(hp_space, args, trainer.model_init, backend=backend)
    reserved = trial_resources(args, space, options)
    result = _result(directory, objective, options)
    table = SweepTable(objective)
    stopper = StopSweep()
    interruption = Interruption(directory)
    watcher = Watcher(result, objective, table.show, interruption, stopper)
    run_config = RunConfig(
        name=directory.name,
        storage_path=str(directory.parent),
        failure_config=FailureConfig(max_failures=args.max_failures),
        callbacks=[watcher, CSVLoggerCallback(), JsonLoggerCallback()],
        stop=stopper,
        verbose=0,
    )
    with shared_data(trainer):
        shipped = ship_to_trials(trainer)
    with traced_sweep(args, _warn) as traceparent, _environment(_ENVIRONMENT):
        sweep = Sweep(trainer=shipped, objective=objective, reports_failures=True, traceparent=traceparent)
        with_sweep = cast("Any", tune.with_parameters(cast("Any", Trial), sweep=sweep))
        trainable = cast("Any", tune.with_resources(with_sweep, cast("Any", reserved)))
        if options.resume:
            tuner = Tuner.restore(str(directory), trainable, resume_unfinished=True, resume_errored=True)
            _replace_callbacks(tuner, run_config)
        else:
            tuner = Tuner(
                trainable,
                param_space=space.samplers,
                tune_config=_tune_config(args, space, objective, options, num_trials, backend, hp_name),
                run_config=run_config,
            )
        try:
            with interruption.listening():
                tuner.fit()
        finally:
            result.end(is_interrupted=interruption.is_asked)
            result.write()
            draw(result)
            if args.report_page:
                write_page(str(directory))
            table.close(result)
    if stopper.message is not None:
        raise ConfigurationError(stopper.message)
    return result


def _warn(event: object) -> None:
    logger.warning("%s", getattr(event, "text", event))


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Generator[None]:
    """Set variables that are not set, inside the block."""
    added = [name for name in values if name not in os.environ]
    os.environ.update({name: values[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _result(directory: Path, objective: Objective, options: SweepOptions) -> SweepResult:
    assert options.scope is not None
    if options.resume:
        try:
            return SweepResult.read(directory)
        except OSError:
            logger.warning("%s has no sweep.json; trials that ended before are not in its table.", directory)
    return SweepResult(
        path=str(directory), directions=list(objective.directions), scope=options.scope, trials=[]
    )


def _tune_config(
    args: TrainingArguments,
    space: SearchSpace,
    objective: Objective,
    options: SweepOptions,
    num_trials: int,
    backend: str,
    hp_name: Callable[[Any], str] | None,
) -> TuneConfig:
    search_alg = options.search_alg
    if search_alg is None:
        if backend == "optuna" or space.suggest is not None:
            at_random = backend == "ray" and options.sampler is None
            search_alg = optuna_search(
                space, objective, seed=args.seed, at_random=at_random, sampler=options.sampler
            )
        else:
            search_alg = BasicVariantGenerator(
                random_state=args.seed, max_concurrent=options.max_concurrent_trials or 0
            )
    names, modes = list(objective.names), list(objective.modes)
    several = len(names) > 1
    return TuneConfig(
        metric=None if several else names[0],
        mode=None if several else modes[0],
        search_alg=search_alg,
        scheduler=options.scheduler,
        num_samples=num_trials,
        # The generator has a limit of its own, beside which Tune would warn that this one has no effect.
        max_concurrent_trials=None
        if isinstance(search_alg, BasicVariantGenerator)
        else options.max_concurrent_trials,
        time_budget_s=options.time_budget_s,
        reuse_actors=True,  # A trial's process, and its workers, go on with the next trial.
        trial_name_creator=lambda trial: trial.trial_id,
        trial_dirname_creator=lambda trial: _directory_name(trial, hp_name),
    )


def _directory_name(trial: Any, hp_name: Callable[[Any], str] | None) -> str:
    if hp_name is None:
        return f"run-{trial.trial_id}"
    # Two trials may have the same name.
    return f"{hp_name(dict(trial.config))}-{trial.trial_id}".replace(os.sep, "_")


def _replace_callbacks(tuner: Any, run_config: RunConfig) -> None:
    """A restored sweep reports here, not to what reported in the process that began it."""
    restored = tuner._local_tuner._run_config
    restored.callbacks, restored.stop, restored.verbose = run_config.callbacks, run_config.stop, 0
