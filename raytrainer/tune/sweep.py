"""What all trials of a sweep share: the trainer that each of them begins with, and the objective."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.arguments.varied import fields_that_vary, with_values
from raytrainer.callbacks.tracker_runs import join_sweep
from raytrainer.tune.hyperparameters import TrialParams
from raytrainer.tune.objective import Objective
from raytrainer.tune.travel import receive_in_trial
from raytrainer.wire.spec import Shipped


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """What each trial gets. Tune stores it once for each node."""

    trainer: Shipped
    """A trainer, or a function ``config -> Trainer``."""
    objective: Objective | None
    is_factory: bool = False
    reports_failures: bool = False
    """A failed trial ends with a result that says so; Tune would start an exception's trial again."""
    traceparent: str | None = None
    """The span that the calls of trials are below, as ``TRACEPARENT`` names it."""

    def make_trainer(self, config: Mapping[str, Any], directory: Path, trial_id: str) -> Any:
        """Make the trainer of a trial.

        Args:
            config: The trial's hyperparameters.
            directory: Its ``output_dir``.
            trial_id: Its name in Tune.
        """
        given = receive_in_trial(self.trainer)
        params = TrialParams(config)
        trainer = given(params) if self.is_factory else given
        args = trainer.args
        of_trial = {
            "output_dir": str(directory),
            "run_name": trial_id
            if args.run_name in (None, args.output_dir)
            else f"{args.run_name}-{trial_id}",
            "push_to_hub": False,  # All trials would push to one repository.
            # A trial without workers of its own would train in Tune's process.
            "num_workers": args.num_workers or None,
            # Trials that were paused or killed go on as they were.
            "restore_callback_states_from_checkpoint": True,
        }
        trainer._use_arguments(with_values(args, of_trial))
        if self.is_factory:
            trainer._trial = params  # It has read them.
        else:
            trainer._hp_search_setup(params)
        join_sweep(trainer.callback_handler.callbacks, directory.parent, directory.name)
        return trainer


def arguments_of_trial(args: TrainingArguments, config: Mapping[str, Any]) -> TrainingArguments:
    """The arguments of a trial, as far as they decide what it reserves.

    Args:
        args: Those of the sweep's trainer.
        config: The trial's hyperparameters; those that are no arguments are for ``model_init``.

    Raises:
        ConfigurationError: If they contradict each other.
    """
    known = fields_that_vary(args)
    values = {name: value for name, value in config.items() if name in known}
    return with_values(args, {"num_workers": args.num_workers or None, **values})
