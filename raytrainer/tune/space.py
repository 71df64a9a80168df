"""Where hyperparameters come from: a dict of Ray's samplers, a function of an Optuna trial, or the default space.

A function that calls ``trial.suggest_*`` is sampled by Optuna inside of Ray Tune, whatever the backend is called: at
random for ``"ray"``, by Optuna's own sampler for ``"optuna"``. So there is one way in which trials run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import cloudpickle
from ray import tune
from ray.tune.search import Searcher
from ray.tune.search.sample import Categorical, Domain, Float, Integer

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.arguments.varied import fields_that_vary, with_values
from raytrainer.errors import ConfigurationError
from raytrainer.tune.hyperparameters import check_names
from raytrainer.tune.objective import Objective

if TYPE_CHECKING:
    import optuna

Space = dict[str, Any] | Callable[..., Any] | None

_TRIED_SAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """A checked space."""

    samplers: dict[str, Any]
    """Name -> Ray's sampler, or a plain value; empty if Optuna samples."""
    suggest: Callable[[optuna.Trial], dict[str, Any]] | None = None
    """Samples a trial with Optuna, if the user's function does."""


def read_space(space: Space, args: TrainingArguments, model_init: object, *, backend: str) -> SearchSpace:
    """Read and check ``hp_space``.

    Args:
        space: A dict of Ray's samplers, a function of the trial, or None for the defaults.
        args: The trainer's arguments.
        model_init: The trainer's factory of models, or None.
        backend: ``"ray"`` or ``"optuna"``: whose trial a function expects.

    Raises:
        ConfigurationError: For an unknown name, or a value that an argument cannot have.
    """
    if space is None:
        return SearchSpace(samplers=default_space())
    if isinstance(space, Mapping):
        samplers: dict[str, Any] = dict(cast("Mapping[str, Any]", space))
    elif callable(space):
        found = _call(space, backend)
        if found is None:
            return _define_by_run(space, args, model_init)
        samplers = found
    else:
        raise ConfigurationError(
            f"hp_space is a {type(space).__name__}; expected a dict such as {{'learning_rate': "
            "ray.tune.loguniform(1e-5, 1e-3)}, or a function of the trial."
        )
    if not samplers:
        raise ConfigurationError(
            "hp_space is empty, so all trials would be the same. Name at least one argument, for instance "
            "{'learning_rate': ray.tune.loguniform(1e-5, 1e-3)}, or leave hp_space out for the defaults."
        )
    check_names(samplers, args, model_init)
    for name, sampler in samplers.items():
        if name in fields_that_vary(args):
            check_values(name, sampler, args)
    return SearchSpace(samplers=samplers)


def default_space() -> dict[str, Any]:
    """The space of ``transformers``, with seeds that are whole numbers."""
    return {
        "learning_rate": tune.loguniform(1e-6, 1e-4),
        "num_train_epochs": tune.choice([1, 2, 3, 4, 5]),
        "seed": tune.randint(1, 41),
        "per_device_train_batch_size": tune.choice([4, 8, 16, 32, 64]),
    }


def check_values(name: str, sampler: object, args: TrainingArguments) -> None:
    """Check that an argument can have the values of a sampler.

    Args:
        name: The argument.
        sampler: Its sampler, or a plain value.
        args: The trainer's arguments.

    Raises:
        ConfigurationError: If it cannot.
    """
    for value in _examples(sampler):
        try:
            with_values(args, {name: value})
        except (ConfigurationError, TypeError, ValueError) as error:
            raise ConfigurationError(f"hp_space gives {name}={value!r}: {error}") from error


def _examples(sampler: Any) -> list[Any]:
    if isinstance(sampler, Categorical):
        return list(cast("list[Any]", sampler.categories))
    if isinstance(sampler, Float | Integer):
        last = 1 if isinstance(sampler, Integer) else 0  # Ray leaves the upper end of whole numbers out.
        ends = [cast("float", sampler.lower), cast("float", sampler.upper) - last]
        return [one for one in ends if math.isfinite(one)]
    if isinstance(sampler, Domain):
        return []  # A function of the user, which may depend on the other samples.
    if isinstance(sampler, Mapping) and set(cast("Mapping[str, Any]", sampler)) == {"grid_search"}:
        return list(cast("Mapping[str, Any]", sampler)["grid_search"])
    return [sampler]


def _call(space: Callable[..., Any], backend: str) -> dict[str, Any] | None:
    """What a function returns that uses Ray's samplers; None if it needs a trial of Optuna."""
    if backend == "optuna":
        return None
    try:
        returned = space(None)
    except AttributeError:  # None.suggest_float
        return None
    if not isinstance(returned, Mapping):
        raise ConfigurationError(
            f"hp_space(trial) returned a {type(returned).__name__}; expected a dict: name of an argument -> sampler."
        )
    return dict(cast("Mapping[str, Any]", returned))


class Suggest:
    """Samples a trial with the user's function, and checks what it returns.

    Args:
        space: The function.
        args: The trainer's arguments.
        model_init: The trainer's factory of models, or None.
    """

    def __init__(self, space: Callable[..., Any], args: TrainingArguments, model_init: object) -> None:
        self._parts = (space, args, model_init)

    def __call__(self, trial: optuna.Trial) -> dict[str, Any]:
        """The hyperparameters of a trial.

        Raises:
            ConfigurationError: For an unknown name.
        """
        space, args, model_init = self._parts
        returned = space(trial)
        if returned is not None and not isinstance(returned, Mapping):
            raise ConfigurationError(
                f"hp_space(trial) returned a {type(returned).__name__}; expected a dict: name of an argument -> value."
            )
        named = dict(cast("Mapping[str, Any]", returned or trial.params))
        check_names(named, args, model_init)
        return named

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[bytes]]:
        # Tune stores its search with plain pickle, which knows neither lambdas nor functions of a notebook.
        return _load_suggest, (cloudpickle.dumps(self._parts),)


def _load_suggest(data: bytes) -> Suggest:
    return Suggest(*cloudpickle.loads(data))


def _define_by_run(space: Callable[..., Any], args: TrainingArguments, model_init: object) -> SearchSpace:
    optuna = _import_optuna()
    suggest = Suggest(space, args, model_init)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    for _ in range(_TRIED_SAMPLES):
        named = suggest(optuna.create_study().ask())
        for name, value in named.items():
            if name in fields_that_vary(args):
                check_values(name, value, args)
    return SearchSpace(samplers={}, suggest=suggest)


def optuna_search(
    space: SearchSpace, objective: Objective, *, seed: int, at_random: bool, sampler: Any = None
) -> Searcher:
    """Make Tune's search that asks Optuna.

    Args:
        space: The space; Ray's samplers are translated.
        objective: What Optuna optimizes.
        seed: Of the sampler; the same seed suggests the same trials, if results come in the same order.
        at_random: Sample at random, without learning from results.
        sampler: The user's own sampler.

    Raises:
        ConfigurationError: If Optuna is not installed, or the space has a grid.
    """
    optuna = _import_optuna()
    grids = [name for name, one in space.samplers.items() if isinstance(one, Mapping)]
    if grids:
        raise ConfigurationError(
            f"hp_space gives {grids[0]} by grid_search, which Optuna does not sample. Use ray.tune.choice, or "
            "backend='ray'."
        )
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    several = len(objective.names) > 1
    if at_random:
        sampler = optuna.samplers.RandomSampler(seed=seed)
    return OptunaSearch(
        space=space.suggest,
        metric=list(objective.names) if several else objective.names[0],
        mode=list(objective.modes) if several else objective.modes[0],
        sampler=sampler,
        seed=seed if sampler is None else None,
    )


def _import_optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigurationError(
            "This search samples with Optuna, which is not installed: pip install 'raytrainer[tune]'. Or give hp_space "
            "as a dict of Ray's samplers."
        ) from error
    return optuna
