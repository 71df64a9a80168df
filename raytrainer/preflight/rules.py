"""What must hold between a trainer's arguments, model and data before anything is started.

One function per rule, each reading a small frozen record of what the Trainer was given. They run on the driver, so
that a mistake costs a second and not the start of a cluster. Nothing here trains, reads a stream, or starts anything.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers.trainer_utils import IntervalStrategy, has_length

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.errors import ConfigurationError
from raytrainer.preflight.columns import check_columns, forward_columns, passes_columns_through
from raytrainer.preflight.output_dir import check_output_dir

_MAKES_BATCHES = frozenset(
    {
        "get_train_dataloader",
        "get_eval_dataloader",
        "get_test_dataloader",
        "_get_dataloader",
        "_remove_unused_columns",
        "_get_collator_with_removed_columns",
        "_set_signature_columns_if_needed",
    }
)
"""Hooks whose override may make batches of anything."""
_USES_INPUTS = frozenset(
    {
        "compute_loss",
        "training_step",
        "prediction_step",
        "_prepare_inputs",
        "_prepare_input",
        "get_batch_samples",
    }
)
"""Hooks whose override may take columns out of a batch before the model sees it."""
OVERRIDES_OF_INTEREST = _MAKES_BATCHES | _USES_INPUTS | {"_get_train_sampler"}
"""Methods of which the rules want to know whether a subclass overrides them."""


@dataclass(frozen=True, kw_only=True)
class TrainerFacts:
    """What a Trainer was given."""

    args: TrainingArguments
    model: Any = None
    """A module, a hub id or path, or None."""
    model_init: Any = None
    train_dataset: Any = None
    eval_dataset: Any = None
    """A dataset, a dict of datasets, or None."""
    data_collator: Any = None
    """As the user passed it; None for the default."""
    compute_metrics: Any = None
    optimizers: tuple[Any, Any] = (None, None)
    optimizer_cls_and_kwargs: Any = None
    overrides: frozenset[str] = frozenset()
    """Those of ``OVERRIDES_OF_INTEREST`` that the user's subclass overrides."""
    heeds: frozenset[str] = frozenset()
    """Arguments of ``Seq2SeqTrainingArguments`` that the class of the trainer does something with."""


def check_trainer(facts: TrainerFacts) -> None:
    """Check what holds for a Trainer as such; called by its constructor.

    Raises:
        ConfigurationError: If a rule is broken.
    """
    facts.args.check()
    for rule in (
        has_one_model,
        optimizer_is_said_once,
        evaluation_has_data,
        best_model_has_a_metric,
        batch_metrics_know_the_last_batch,
        collator_is_callable,
        datasets_are_not_empty,
        sequences_have_their_trainer,
    ):
        rule(facts)
    check_output_dir(str(facts.args.output_dir))


def check_training(facts: TrainerFacts) -> None:
    """Check what holds for ``train()``; called before workers are started.

    Raises:
        ConfigurationError: If a rule is broken.
    """
    for rule in (has_train_dataset, has_an_end, sampling_has_lengths, train_columns_fit, eval_columns_fit):
        rule(facts)


def check_evaluation(facts: TrainerFacts, dataset: Any = None, *, keyword: str = "eval_dataset") -> None:
    """Check what holds for ``evaluate()`` and ``predict()``; called before workers are started.

    Args:
        facts: What the Trainer was given.
        dataset: What the call was given: a dataset, a dict of them, the name of one of the trainer's, or None.
        keyword: How messages call it.

    Raises:
        ConfigurationError: If there is nothing to evaluate, or it does not fit the model.
    """
    data = facts.eval_dataset if dataset is None else dataset
    if isinstance(data, str):
        known = list(facts.eval_dataset) if isinstance(facts.eval_dataset, Mapping) else []
        if data not in known:
            raise ConfigurationError(
                f"{keyword}={data!r} names no dataset of the Trainer, whose eval_dataset has "
                f"{known or 'no names'}. Pass a dataset, or one of the names."
            )
        data = {data: facts.eval_dataset[data]}
    if data is None and "get_eval_dataloader" not in facts.overrides:
        raise ConfigurationError(
            f"There is nothing to evaluate: neither this call nor the Trainer was given an {keyword}. "
            f"Pass {keyword}=."
        )
    for name, one in _named(data, keyword):
        _check_not_empty(name, one)
        _check_fit(facts, name, one)


def has_one_model(facts: TrainerFacts) -> None:
    """Exactly one of ``model`` and ``model_init``."""
    if facts.model is None and facts.model_init is None:
        raise ConfigurationError("The Trainer got neither model= nor model_init=. Pass one of them.")
    if facts.model is not None and facts.model_init is not None:
        raise ConfigurationError(
            "The Trainer got model= and model_init=, and only one of them can be trained. Keep model_init "
            "if each train() shall begin with a fresh model, else model."
        )
    if facts.model is None and not callable(facts.model_init):
        raise ConfigurationError(
            f"model_init= is a {type(facts.model_init).__name__}, where a function that returns a model "
            "was expected. Pass a function, or the model as model=."
        )
    if (
        facts.model is not None
        and not isinstance(facts.model, torch.nn.Module | str)
        and not hasattr(facts.model, "__fspath__")
    ):
        raise ConfigurationError(
            f"model= is a {type(facts.model).__name__}, where a torch.nn.Module, a hub id or a path was "
            "expected. Pass one of these, or a function as model_init=."
        )


def optimizer_is_said_once(facts: TrainerFacts) -> None:
    """An optimizer belongs to one model and is given in one way."""
    optimizer, schedule = facts.optimizers
    if facts.model_init is not None and (optimizer is not None or schedule is not None):
        raise ConfigurationError(
            "optimizers= was given with model_init=: the model that model_init makes is not the one whose "
            "parameters that optimizer holds. Override create_optimizer_and_scheduler, or pass model=."
        )
    if optimizer is not None and facts.optimizer_cls_and_kwargs is not None:
        raise ConfigurationError(
            "optimizers= and optimizer_cls_and_kwargs= were both given, and a run has one optimizer. "
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
            f"{asked} evaluates during training, and the Trainer got no eval_dataset. Pass eval_dataset=, "
            "or switch that evaluation off."
        )


def best_model_has_a_metric(facts: TrainerFacts) -> None:
    """Choosing the best model needs a metric to compare."""
    args = facts.args
    for asked, words in (
        (args.save_strategy == "best", "save_strategy='best'"),
        (args.load_best_model_at_end, "load_best_model_at_end=True"),
    ):
        if asked and args.metric_for_best_model is None:
            raise ConfigurationError(
                f"{words} compares evaluations, and metric_for_best_model names no metric. Set it, for "
                "instance to 'loss' or to a key that your compute_metrics returns."
            )


def batch_metrics_know_the_last_batch(facts: TrainerFacts) -> None:
    """``batch_eval_metrics`` calls ``compute_metrics`` once per batch and says which is the last."""
    if not facts.args.batch_eval_metrics or facts.compute_metrics is None:
        return
    parameters = inspect.signature(facts.compute_metrics).parameters
    if "compute_result" not in parameters:
        raise ConfigurationError(
            f"batch_eval_metrics=True calls compute_metrics with compute_result=True at the last batch, "
            f"and yours takes {list(parameters)}. Add a compute_result parameter, or set "
            "batch_eval_metrics=False."
        )


def collator_is_callable(facts: TrainerFacts) -> None:
    """A collator is called with a list of samples."""
    if facts.data_collator is not None and not callable(facts.data_collator):
        raise ConfigurationError(
            f"data_collator= is a {type(facts.data_collator).__name__}, which cannot be called. Pass a "
            "function, or an object with __call__, that makes a batch of a list of samples."
        )


def datasets_are_not_empty(facts: TrainerFacts) -> None:
    """A dataset that knows its length has a sample."""
    for name, dataset in (
        *_named(facts.train_dataset, "train_dataset"),
        *_named(facts.eval_dataset, "eval_dataset"),
    ):
        _check_not_empty(name, dataset)


def sequences_have_their_trainer(facts: TrainerFacts) -> None:
    """What ``Seq2SeqTrainingArguments`` ask for is done by the ``Seq2SeqTrainer``, or by an override."""
    for name, hook in (
        ("predict_with_generate", "prediction_step"),
        ("sortish_sampler", "_get_train_sampler"),
    ):
        if getattr(facts.args, name, False) and name not in facts.heeds and hook not in facts.overrides:
            raise ConfigurationError(
                f"{name}=True asks for what the Seq2SeqTrainer does, and this is another Trainer, which would leave it "
                f"out. Use raytrainer.Seq2SeqTrainer, override {hook}, or set {name}=False."
            )


def has_train_dataset(facts: TrainerFacts) -> None:
    """Training needs data."""
    if facts.train_dataset is None and "get_train_dataloader" not in facts.overrides:
        raise ConfigurationError(
            "train() needs data, and the Trainer got no train_dataset. Pass train_dataset=, or override "
            "get_train_dataloader."
        )


def has_an_end(facts: TrainerFacts) -> None:
    """A run ends after steps or after epochs, and a dataset without a length has no epochs that can be counted."""
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
            f"train_dataset is a {type(facts.train_dataset).__name__} without a length, so nobody knows when "
            f"num_train_epochs={args.num_train_epochs!r} are over, and the learning rate needs the number "
            "of steps. Set max_steps."
        )


def sampling_has_lengths(facts: TrainerFacts) -> None:
    """Only samples that can be read by index can be put in an order."""
    strategy = facts.args.train_sampling_strategy
    if strategy not in ("group_by_length", "batch_rebalance"):
        return
    if facts.train_dataset is None or "get_train_dataloader" in facts.overrides:
        return
    if not has_length(facts.train_dataset) or isinstance(
        facts.train_dataset, torch.utils.data.IterableDataset
    ):
        raise ConfigurationError(
            f"train_sampling_strategy={strategy!r} orders samples by their length, and train_dataset is a "
            f"{type(facts.train_dataset).__name__}, which is read in its own order. Set it to 'random', which leaves "
            "that order alone, or group the samples in the dataset."
        )


def train_columns_fit(facts: TrainerFacts) -> None:
    """The model takes something of what the training data holds."""
    for name, dataset in _named(facts.train_dataset, "train_dataset"):
        _check_fit(facts, name, dataset)


def eval_columns_fit(facts: TrainerFacts) -> None:
    """The same for data that is evaluated during training."""
    if facts.args.eval_strategy == IntervalStrategy.NO and not facts.args.eval_on_start:
        return
    for name, dataset in _named(facts.eval_dataset, "eval_dataset"):
        _check_fit(facts, name, dataset)


def _check_fit(facts: TrainerFacts, name: str, dataset: Any) -> None:
    _check_whole(facts, name, dataset)
    if not isinstance(facts.model, torch.nn.Module) or facts.overrides & _MAKES_BATCHES:
        return
    check_columns(
        dataset,
        name,
        forward_columns(facts.model, facts.args.label_names),
        remove_unused=facts.args.remove_unused_columns,
        passes_through=passes_columns_through(facts.data_collator) and not facts.overrides & _USES_INPUTS,
    )


def _check_whole(facts: TrainerFacts, name: str, dataset: Any) -> None:
    """Ranks take their parts of the same stream, so that a part of a part would be trained on."""
    split = getattr(dataset, "_distributed", None)
    if split is not None and facts.args.world_size > 1 and not facts.overrides & _MAKES_BATCHES:
        raise ConfigurationError(
            f"{name} was split by node (rank {split.rank} of {split.world_size}), and workers are dealt their parts "
            "of the whole by raytrainer: most of the data would never be seen. Pass it as it was before the split; "
            "accelerator_config={'dispatch_batches': True} lets one worker read for all."
        )


def _check_not_empty(name: str, dataset: Any) -> None:
    if has_length(dataset) and len(dataset) == 0:
        raise ConfigurationError(
            f"{name} has no sample, and at least one was expected. Check how it was loaded."
        )


def _named(dataset: Any, keyword: str) -> Iterator[tuple[str, Any]]:
    """The datasets behind a keyword, with a name for messages."""
    if dataset is None:
        return
    if isinstance(dataset, Mapping):
        for name, one in dataset.items():
            yield f"{keyword}[{name!r}]", one
    else:
        yield keyword, dataset


def overrides_of(cls: type, base: type) -> frozenset[str]:
    """Which methods of interest a subclass of the Trainer overrides.

    Args:
        cls: The user's class.
        base: The Trainer of this package.
    """
    return frozenset(
        name for name in OVERRIDES_OF_INTEREST if getattr(cls, name, None) is not getattr(base, name, None)
    )
