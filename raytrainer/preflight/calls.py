"""What must hold before a call of ``train()``, ``evaluate()`` or ``predict()`` starts workers.

The constructor of the Trainer has checked already what holds for any call (``construction``). Everything here runs on
the driver and reads names, headers and lengths only, so a mistake costs a second instead of the start of a cluster.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from transformers.trainer_utils import IntervalStrategy, SaveStrategy, has_length

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.checkpoint.lease import check_free
from raytrainer.data.dataset_kinds import as_dataset
from raytrainer.driver.entry_points import runs_in_this_process
from raytrainer.errors import ConfigurationError, UnknownArgumentError, WrongTypeError
from raytrainer.loop.neftune import check_noise
from raytrainer.preflight.best_metric import best_metric_can_exist, best_metric_names_a_dataset
from raytrainer.preflight.construction import check_again
from raytrainer.preflight.datasets import check_fits_model, check_not_empty, named_datasets
from raytrainer.preflight.facts import TrainerFacts, facts_of
from raytrainer.preflight.first_batch import check_first_batches
from raytrainer.preflight.given_objects import check_eval_datasets, model_can_be_trained
from raytrainer.preflight.optimizer_choice import check_optimizer
from raytrainer.preflight.output_dir import check_output_dir
from raytrainer.preflight.resume import check_names_a_checkpoint, check_resume
from raytrainer.preflight.sharding import check_sharding
from raytrainer.preflight.unsupported_methods import check_trial
from raytrainer.storage.locations import is_uri
from raytrainer.trainer_protocol import TrainerProtocol
from raytrainer.worker.recomputation import check_recomputation

logger = logging.getLogger(__name__)


def check_call(
    trainer: TrainerProtocol, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> None:
    """Check a call of a method that runs on workers, before there are any.

    Args:
        trainer: The trainer that was called.
        method: ``train``, ``evaluate`` or ``predict``; any other method is left alone.
        args: Positional arguments of the call.
        kwargs: Keyword arguments of the call.

    Raises:
        ConfigurationError: If the call cannot work.
        CheckpointError: If it resumes from a checkpoint that is missing, damaged, or belongs to another model.
    """
    if method not in ("train", "evaluate", "predict"):
        return
    passed = _by_name(trainer, method, args, kwargs)
    _check_arguments_again(trainer)
    facts = facts_of(trainer)
    check_again(facts)
    if method == "train":
        model_can_be_trained(facts)
        check_training(facts)
        trial = check_trial(passed.get("trial"))
        check_optimizer(facts)
        check_sharding(facts)
        check_noise(trainer.neftune_noise_alpha, facts.model)
        check_recomputation(facts.args, facts.model)
        check_names_a_checkpoint(passed.get("resume_from_checkpoint"))
        _check_names("ignore_keys_for_eval", passed.get("ignore_keys_for_eval"))
        if not runs_in_this_process(facts.args):
            check_first_batches(facts, "train_dataset", facts.train_dataset)
            if evaluates_in_training(facts):
                check_first_batches(facts, "eval_dataset", facts.eval_dataset)
        directory = trainer._get_output_dir(trial)
        if facts.args.save_strategy != SaveStrategy.NO:
            check_is_free(directory)
        check_resume(facts, passed.get("resume_from_checkpoint"), directory)
        return
    keyword = "eval_dataset" if method == "evaluate" else "test_dataset"
    given = passed.get(keyword, args[0] if args else None)  # an override may call it otherwise
    check_evaluation(facts, given, keyword=keyword)
    _check_names("ignore_keys", passed.get("ignore_keys"))
    if not runs_in_this_process(facts.args):
        data = facts.eval_dataset if given is None or isinstance(given, str) else given
        check_first_batches(facts, keyword, data)


def check_is_free(location: str) -> None:
    """Refuse a directory, or a bucket, that another run of this machine holds.

    Raises:
        ConfigurationError: If it is held.
    """
    if not is_uri(location):
        check_free(Path(location), report=logger.warning)
        return
    from raytrainer.checkpoint.remote.fetch import fetching_explained
    from raytrainer.checkpoint.remote.lease import check_bucket_free
    from raytrainer.storage.store import ObjectStore

    with fetching_explained(location):
        check_bucket_free(ObjectStore(location), report=logger.warning)


_POSITIONS = {
    "train": ("resume_from_checkpoint", "trial", "ignore_keys_for_eval"),
    "evaluate": ("eval_dataset", "ignore_keys", "metric_key_prefix"),
    "predict": ("test_dataset", "ignore_keys", "metric_key_prefix"),
}
"""What an override that takes ``*args`` hands on."""


def _by_name(
    trainer: TrainerProtocol, method: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """What a call passes, by the names that the method gives it; an override may have others, in another order."""
    signature = inspect.signature(getattr(trainer, method))
    try:
        bound = signature.bind(*args, **kwargs)
    except TypeError as error:
        raise UnknownArgumentError(
            f"{method}() cannot be called like this: {error}. It takes {list(signature.parameters)}. Correct the call."
        ) from error
    passed: dict[str, Any] = {}
    for position, (name, value) in enumerate(bound.arguments.items()):
        kind = signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_POSITIONAL:
            passed.update(zip(_POSITIONS[method][position:], value, strict=False))
        elif kind is inspect.Parameter.VAR_KEYWORD:
            passed.update(value)
        else:
            passed[name] = value
    return passed


def _check_arguments_again(trainer: TrainerProtocol) -> None:
    """They may have been changed since the trainer was constructed."""
    args = cast("object", trainer.args)
    if not isinstance(args, TrainingArguments):
        raise WrongTypeError(
            f"trainer.args was set to a {type(args).__name__}, but a raytrainer.TrainingArguments was expected. Set "
            "one, or make a new Trainer."
        )
    args.check()
    if not is_uri(str(args.output_dir)):  # a bucket was tried by the constructor, which takes seconds
        check_output_dir(str(args.output_dir))


def _check_names(keyword: str, given: object) -> None:
    if given is None:
        return
    is_list = isinstance(given, list | tuple | set)
    if not is_list or not all(isinstance(one, str) for one in cast("Iterable[object]", given)):
        raise WrongTypeError(
            f"{keyword}={given!r}, but a list of names of the model's outputs was expected. Pass for instance "
            "['hidden_states'], or leave it out."
        )


def evaluates_in_training(facts: TrainerFacts) -> bool:
    """Whether ``train()`` evaluates."""
    return facts.args.eval_strategy != IntervalStrategy.NO or bool(facts.args.eval_on_start)


def check_training(facts: TrainerFacts) -> None:
    """Check the data and the length of ``train()``.

    Raises:
        ConfigurationError: If a rule is broken.
    """
    for rule in (
        has_train_dataset,
        has_an_end,
        sampling_has_lengths,
        train_columns_fit,
        eval_columns_fit,
        best_metric_names_a_dataset,
        best_metric_can_exist,
    ):
        rule(facts)


def check_evaluation(facts: TrainerFacts, dataset: Any = None, *, keyword: str = "eval_dataset") -> None:
    """Check the data of ``evaluate()`` and ``predict()``.

    Args:
        facts: What the trainer was given.
        dataset: What the call was given: a dataset, a dict of them, the name of one of the trainer's, or None.
        keyword: The argument of the call, for messages.

    Raises:
        ConfigurationError: If there is nothing to evaluate, or it does not fit the model.
    """
    data = facts.eval_dataset if dataset is None else dataset
    if isinstance(data, str):
        data = _named_dataset(facts, data, keyword)
    if data is None and "get_eval_dataloader" not in facts.overrides:
        raise ConfigurationError(
            f"There is nothing to evaluate: neither this call nor the Trainer was given an {keyword}. "
            f"Pass {keyword}=."
        )
    check_eval_datasets(keyword, data)
    for name, one in named_datasets(data, keyword):
        check_not_empty(name, one)
        check_fits_model(facts, name, one)


def _named_dataset(facts: TrainerFacts, name: str, keyword: str) -> dict[str, Any]:
    given = facts.eval_dataset
    named = dict(cast("Mapping[str, Any]", given)) if isinstance(given, Mapping) else {}
    if name not in named:
        raise ConfigurationError(
            f"{keyword}={name!r} names no dataset of the Trainer, whose eval_dataset has "
            f"{list(named) or 'no names'}. Pass a dataset, or one of the names."
        )
    return {name: named[name]}


def has_train_dataset(facts: TrainerFacts) -> None:
    """Training needs data."""
    if facts.train_dataset is None and "get_train_dataloader" not in facts.overrides:
        raise ConfigurationError(
            "train() needs data, and the Trainer got no train_dataset. Pass train_dataset=, or override "
            "get_train_dataloader."
        )


def has_an_end(facts: TrainerFacts) -> None:
    """A run ends after steps or after epochs; a dataset of unknown length has no epochs to count."""
    args = facts.args
    if args.max_steps <= 0 and args.num_train_epochs <= 0:
        raise ConfigurationError(
            f"num_train_epochs={args.num_train_epochs!r} and max_steps={args.max_steps!r} leave nothing to "
            "train. Set one of them above 0; fractions of an epoch are fine."
        )
    if facts.train_dataset is None or "get_train_dataloader" in facts.overrides:
        return
    if not has_length(facts.train_dataset) and args.max_steps <= 0:
        raise ConfigurationError(
            f"train_dataset is a {type(facts.train_dataset).__name__} without a length, so the end of "
            f"num_train_epochs={args.num_train_epochs!r} is unknown, and the learning rate schedule needs the number "
            "of steps. Set max_steps."
        )


def sampling_has_lengths(facts: TrainerFacts) -> None:
    """Only samples that can be read by index can be put in an order."""
    strategy = facts.args.train_sampling_strategy
    if strategy not in ("group_by_length", "batch_rebalance"):
        return
    if facts.train_dataset is None or "get_train_dataloader" in facts.overrides:
        return
    is_stream = isinstance(facts.train_dataset, torch.utils.data.IterableDataset)
    if is_stream or not has_length(facts.train_dataset):
        raise ConfigurationError(
            f"train_sampling_strategy={strategy!r} sorts samples by length, but train_dataset is a "
            f"{type(facts.train_dataset).__name__}, which can only be read in its own order. Set it to 'random', which "
            "keeps that order, or group the samples when you make the dataset."
        )


def train_columns_fit(facts: TrainerFacts) -> None:
    """The model takes a column of the training data."""
    if facts.train_dataset is not None:
        check_fits_model(facts, "train_dataset", as_dataset(facts.train_dataset))


def eval_columns_fit(facts: TrainerFacts) -> None:
    """The model takes a column of the data that is evaluated during training."""
    if not evaluates_in_training(facts):
        return
    for name, dataset in named_datasets(facts.eval_dataset, "eval_dataset"):
        check_fits_model(facts, name, dataset)
