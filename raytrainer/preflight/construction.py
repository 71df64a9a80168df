"""What must hold for a Trainer as soon as it is constructed: arguments, model, and a directory for its output.

One function per rule, each reading the record of what the Trainer was given. They run on the driver, so a mistake costs
a second instead of the start of a cluster. What only matters to one call, such as ``train()``, is in ``calls``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import cast

import torch
from torch.utils.data import IterableDataset
from transformers.trainer_utils import IntervalStrategy

from raytrainer.arguments.accelerator_config import check_configured_state
from raytrainer.data.dataset_kinds import as_dataset
from raytrainer.errors import ConfigurationError, ModelError
from raytrainer.preflight.best_metric import best_metric_names_a_dataset
from raytrainer.preflight.datasets import check_not_empty, named_datasets
from raytrainer.preflight.facts import SAVES, TrainerFacts, facts_of
from raytrainer.preflight.given_objects import (
    datasets_can_be_read,
    functions_can_be_called,
    model_has_values,
    optimizers_can_step,
    processing_class_can_be_saved,
)
from raytrainer.preflight.output_dir import check_output_dir
from raytrainer.trainer_protocol import TrainerProtocol


def check_construction(trainer: TrainerProtocol) -> None:
    """Check a trainer that was just constructed.

    Raises:
        ConfigurationError: If a rule is broken.
    """
    check_trainer(facts_of(trainer))


def check_trainer(facts: TrainerFacts) -> None:
    """Check what a Trainer was given, whatever it is called for later.

    Its arguments were checked when they became the trainer's (``arguments.convert``).

    Raises:
        ConfigurationError: If a rule is broken.
    """
    for rule in (has_one_model, model_has_a_usable_type, optimizer_is_given_once, *_RULES):
        rule(facts)
    check_configured_state(facts.args)
    check_output_dir(str(facts.args.output_dir))


def check_again(facts: TrainerFacts) -> None:
    """Check a trainer whose attributes may have been changed since it was constructed.

    By now it may have the model that ``model_init`` made, and the optimizer of a call before.

    Raises:
        ConfigurationError: If a rule is broken.
    """
    if facts.model is not None:
        model_has_a_usable_type(facts)
        model_has_values(facts)
    for rule in _RULES:
        rule(facts)


def has_one_model(facts: TrainerFacts) -> None:
    """A trainer has exactly one of ``model`` and ``model_init``."""
    if facts.model is None and facts.model_init is None:
        raise ModelError("The Trainer got neither model= nor model_init=. Pass one of them.")
    if facts.model is not None and facts.model_init is not None:
        raise ConfigurationError(
            "The Trainer got both model= and model_init=, but only one of them can be trained. Keep model_init= "
            "if each train() should begin with a fresh model, otherwise model=."
        )


def model_has_a_usable_type(facts: TrainerFacts) -> None:
    """A model is a module, a hub id or a path; ``model_init`` is a function."""
    make: object = facts.model_init
    is_other_class = isinstance(make, type) and not issubclass(cast("type[object]", make), torch.nn.Module)
    if facts.model is None and (not callable(make) or is_other_class):
        given = f"the class {make!r}" if isinstance(make, type) else f"a {type(make).__name__}"
        raise ConfigurationError(
            f"model_init= is {given}; a function that returns a model was expected. Pass a function, or the model as "
            "model=."
        )
    is_usable = isinstance(facts.model, torch.nn.Module | str) or hasattr(facts.model, "__fspath__")
    if facts.model is not None and not is_usable:
        raise ConfigurationError(
            f"model= is a {type(facts.model).__name__}; a torch.nn.Module, a hub id or a path was "
            "expected. Pass one of these, or a function as model_init=."
        )


def optimizer_is_given_once(facts: TrainerFacts) -> None:
    """An optimizer belongs to one model and is given in one way."""
    optimizer, schedule = facts.optimizers
    if facts.model_init is not None and (optimizer is not None or schedule is not None):
        raise ModelError(
            "optimizers= was given with model_init=, but an optimizer holds the parameters of one model, and "
            "model_init makes another one for each train(). Override create_optimizer_and_scheduler, or pass model=."
        )
    if optimizer is not None and facts.optimizer_cls_and_kwargs is not None:
        raise ModelError(
            "optimizers= and optimizer_cls_and_kwargs= were both given, but a run has one optimizer. "
            "Keep one of them."
        )


def evaluation_has_data(facts: TrainerFacts) -> None:
    """An eval strategy needs something to evaluate."""
    args = facts.args
    if args.eval_strategy == IntervalStrategy.NO and not args.eval_on_start:
        return
    strategy = IntervalStrategy(args.eval_strategy).value
    asked = f"eval_strategy={strategy!r}" if strategy != "no" else "eval_on_start=True"
    if facts.eval_dataset is None and "get_eval_dataloader" not in facts.overrides:
        raise ConfigurationError(
            f"{asked} evaluates during training, but the Trainer got no eval_dataset. Pass eval_dataset=, "
            "or turn that evaluation off."
        )


def best_model_has_a_metric(facts: TrainerFacts) -> None:
    """Choosing the best model needs a metric to compare."""
    if facts.args.load_best_model_at_end and facts.args.metric_for_best_model is None:
        raise ConfigurationError(
            "load_best_model_at_end=True compares evaluations, but metric_for_best_model names no metric. Set it, for "
            "instance to 'loss' or to a key that your compute_metrics returns."
        )


def batch_metrics_know_the_last_batch(facts: TrainerFacts) -> None:
    """``batch_eval_metrics`` calls ``compute_metrics`` once per batch and tells it which one is the last."""
    if not facts.args.batch_eval_metrics or facts.compute_metrics is None:
        return
    parameters = inspect.signature(facts.compute_metrics).parameters
    if "compute_result" not in parameters:
        raise ConfigurationError(
            f"batch_eval_metrics=True calls compute_metrics with compute_result=True for the last batch, "
            f"but yours takes {list(parameters)}. Add a compute_result parameter, or set "
            "batch_eval_metrics=False."
        )


def loss_function_can_be_called(facts: TrainerFacts) -> None:
    """A ``compute_loss_func`` is called with outputs and labels, and with ``num_items_in_batch`` if it takes it."""
    function = facts.compute_loss_func
    if function is None:
        return
    expected = "Expected: (outputs, labels, num_items_in_batch=None), of which the last one may be left out."
    if not callable(function):
        raise ConfigurationError(
            f"compute_loss_func= is a {type(function).__name__}, which cannot be called. {expected}"
        )
    try:
        signature = inspect.signature(function.forward if isinstance(function, torch.nn.Module) else function)
    except (TypeError, ValueError):  # a function of C without a signature
        return
    keywords = {"num_items_in_batch": None} if "num_items_in_batch" in signature.parameters else {}
    try:
        signature.bind(None, None, **keywords)
    except TypeError as error:
        raise ConfigurationError(
            f"compute_loss_func= takes {signature}, so it cannot be called: {error}. {expected}"
        ) from error


def datasets_are_not_empty(facts: TrainerFacts) -> None:
    """A dataset of known length has at least one sample."""
    if facts.train_dataset is not None:
        check_not_empty("train_dataset", as_dataset(facts.train_dataset))
    for name, dataset in named_datasets(facts.eval_dataset, "eval_dataset"):
        check_not_empty(name, dataset)


def elastic_streams_have_one_reader(facts: TrainerFacts) -> None:
    """The micro-batches of a step are dealt out in the order of the stream, which several processes share out."""
    args = facts.args
    if not args.is_elastic or args.dataloader_num_workers < 2 or facts.train_dataset is None:
        return
    if isinstance(as_dataset(facts.train_dataset), IterableDataset):
        raise ConfigurationError(
            f"num_workers={args.num_workers!r} lets the number of workers change, and dataloader_num_workers="
            f"{args.dataloader_num_workers} lets several processes read the train_dataset, which is a stream: its "
            "order would follow from both numbers. Set dataloader_num_workers=1, or train on a fixed number, "
            f"num_workers={args.max_workers}."
        )


def seq2seq_fields_are_implemented(facts: TrainerFacts) -> None:
    """``Seq2SeqTrainingArguments`` need a ``Seq2SeqTrainer``, or an override that does the same."""
    for name, hook in (
        ("predict_with_generate", "prediction_step"),
        ("sortish_sampler", "_get_train_sampler"),
    ):
        if getattr(facts.args, name, False) and name not in facts.supports and hook not in facts.overrides:
            raise ConfigurationError(
                f"{name}=True asks for what the Seq2SeqTrainer does, but this is another Trainer, which ignores it. "
                f"Use raytrainer.Seq2SeqTrainer, override {hook}, or set {name}=False."
            )


def saves_beside_training_are_not_overridden(facts: TrainerFacts) -> None:
    """An override of ``_save_checkpoint`` goes on with a checkpoint that is not there yet."""
    if facts.args.async_save and SAVES in facts.overrides:
        raise ConfigurationError(
            f"async_save=True commits a checkpoint after {SAVES} has returned, but this trainer overrides {SAVES}, "
            "which would not find it. Use a callback with on_save, which is called when the checkpoint is there, or "
            "set async_save=False."
        )


_RULES: tuple[Callable[[TrainerFacts], None], ...] = (
    optimizers_can_step,
    processing_class_can_be_saved,
    datasets_can_be_read,
    evaluation_has_data,
    best_model_has_a_metric,
    best_metric_names_a_dataset,
    functions_can_be_called,
    batch_metrics_know_the_last_batch,
    loss_function_can_be_called,
    datasets_are_not_empty,
    elastic_streams_have_one_reader,
    seq2seq_fields_are_implemented,
    saves_beside_training_are_not_overridden,
)
"""Rules that hold before any call, too."""
