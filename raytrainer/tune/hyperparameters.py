"""What a trial's hyperparameters are, and how they reach a trainer.

A name is either a field of the arguments, or one that only ``model_init(trial)`` reads.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from transformers.trainer_utils import number_of_arguments  # pyright: ignore[reportUnknownVariableType]

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.arguments.varied import OF_THE_SEARCH, fields_that_vary
from raytrainer.errors import ConfigurationError
from raytrainer.suggestions import did_you_mean


class TrialParams(dict[str, Any]):
    """The hyperparameters of a trial, as ``model_init(trial)`` reads them.

    Both ways of writing it work: ``trial["width"]`` of Ray, and ``trial.suggest_int("width", ...)`` of Optuna, which
    returns the value that was suggested when the trial began.
    """

    @property
    def params(self) -> dict[str, Any]:
        """Name -> value."""
        return dict(self)

    def _suggested(self, name: str, *_: object, **__: object) -> Any:
        if name not in self:
            raise ConfigurationError(
                f"model_init asks this trial for {name!r}, which hp_space did not suggest.{did_you_mean(name, self)} "
                "Suggest it in hp_space too, with the same range."
            )
        return self[name]

    suggest_int = suggest_float = suggest_categorical = suggest_uniform = suggest_loguniform = _suggested
    suggest_discrete_uniform = _suggested


def takes_trial(model_init: object) -> bool:
    """Whether ``model_init`` reads hyperparameters itself."""
    return callable(model_init) and number_of_arguments(model_init) > 0


def check_names(names: Iterable[str], args: TrainingArguments, model_init: object) -> None:
    """Check that every hyperparameter will be read by something.

    Args:
        names: The hyperparameters.
        args: The arguments of the trainer.
        model_init: The trainer's factory of models, or None.

    Raises:
        ConfigurationError: If one is neither an argument nor something that ``model_init`` can read.
    """
    known = fields_that_vary(args)
    for name in names:
        if name in OF_THE_SEARCH:
            raise ConfigurationError(
                f"hp_space varies {name!r}, which belongs to the sweep as a whole: each trial has a directory of its "
                "own. Remove it from hp_space."
            )
        if name not in known and not takes_trial(model_init):
            raise ConfigurationError(
                f"hp_space varies {name!r}, which is not a field of {type(args).__name__}.{did_you_mean(name, known)} "
                "If your model needs it, define model_init with an argument: def model_init(trial), and read "
                f"trial[{name!r}] there."
            )
