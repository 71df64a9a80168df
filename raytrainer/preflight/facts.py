"""What a Trainer was given: the frozen record that every check before a run reads.

Reading it has no side effects: no dataset is opened, no model is built. Checks take this record instead of the trainer,
so that each can be called with a few values and no trainer at all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.checkpoint.background import WRITES_CHECKPOINTS
from raytrainer.trainer_protocol import TrainerProtocol

MAKES_BATCHES = frozenset(
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
"""Hooks whose override may build batches out of anything."""
USES_INPUTS = frozenset(
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
MAKES_METRICS = frozenset(
    {
        "evaluate",
        "evaluation_loop",
        "_evaluate",
        "_determine_best_metric",
        "log",
    }
)
"""Hooks whose override may add to the metrics of an evaluation, or choose among them."""
MAKES_OPTIMIZER = frozenset({"create_optimizer", "create_optimizer_and_scheduler"})
"""Hooks whose override may train other parameters than those that are trainable now."""
PLACES_MODEL = frozenset({"_move_model_to_device", "place_model_on_device"})
"""Whose override may give memory and values to a model that has none."""
LOADS_WEIGHTS = "_load_from_checkpoint"
"""The hook whose override knows which weights its checkpoints hold."""
SAVES = "_save_checkpoint"
"""The hook whose override finds a committed checkpoint when the method that it overrides returns."""
COUNTS_TARGETS = frozenset({"get_batch_samples", "_get_num_items_in_batch"})
"""Methods that fetch the micro-batches of a step and count its targets."""
OVERRIDES_OF_INTEREST = (
    MAKES_BATCHES
    | USES_INPUTS
    | MAKES_METRICS
    | MAKES_OPTIMIZER
    | WRITES_CHECKPOINTS
    | COUNTS_TARGETS
    | PLACES_MODEL
    | {"_get_train_sampler", LOADS_WEIGHTS}
)
"""Methods whose override changes what a check may assume."""


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
    collate: Any = None
    """What makes batches: the user's collator, or the default."""
    compute_loss_func: Any = None
    compute_metrics: Any = None
    preprocess_logits_for_metrics: Any = None
    processing_class: Any = None
    optimizers: tuple[Any, Any] = (None, None)
    """An optimizer and a schedule; either may be None."""
    optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None
    overrides: frozenset[str] = frozenset()
    """Those of ``OVERRIDES_OF_INTEREST`` that the user's subclass overrides."""
    supports: frozenset[str] = frozenset()
    """Fields of ``Seq2SeqTrainingArguments`` that the trainer's class implements."""
    callbacks: tuple[Any, ...] = ()
    """Instances."""
    evaluates: frozenset[str] = frozenset()
    """Metrics that the trainer's class gives by itself."""

    @property
    def loads_own_weights(self) -> bool:
        """Whether the user's class reads the weights of a checkpoint by itself."""
        return LOADS_WEIGHTS in self.overrides

    @property
    def makes_metrics(self) -> bool:
        """Whether code of the user's other than ``compute_metrics`` may add to the metrics of an evaluation."""
        return bool(self.overrides & MAKES_METRICS) or any(map(_hears_of_evaluations, self.callbacks))


def is_users_own(callback: object) -> bool:
    """Whether a callback is neither of transformers nor of this package."""
    return type(callback).__module__.partition(".")[0] not in ("transformers", "raytrainer")


def _hears_of_evaluations(callback: object) -> bool:
    """Whether a callback of the user's is given the metrics of an evaluation, which it may change."""
    cls = type(callback)
    return is_users_own(callback) and getattr(cls, "on_evaluate", None) is not getattr(
        TrainerCallback, "on_evaluate", None
    )


def facts_of(trainer: TrainerProtocol) -> TrainerFacts:
    """Read what a trainer was given."""
    return TrainerFacts(
        args=trainer.args,
        model=trainer._own_model,
        model_init=trainer.model_init,
        train_dataset=trainer.train_dataset,
        eval_dataset=trainer.eval_dataset,
        data_collator=trainer._own_collator,
        collate=trainer.data_collator,
        compute_loss_func=trainer.compute_loss_func,
        compute_metrics=trainer.compute_metrics,
        preprocess_logits_for_metrics=trainer.preprocess_logits_for_metrics,
        processing_class=trainer.processing_class,
        optimizers=(trainer.optimizer, trainer.lr_scheduler),
        optimizer_cls_and_kwargs=trainer.optimizer_cls_and_kwargs,
        overrides=trainer._overrides(),
        supports=trainer._supports,
        callbacks=tuple(trainer.callback_handler.callbacks),
        evaluates=trainer._evaluates,
    )


def overrides_of(cls: type, base: type) -> frozenset[str]:
    """Find the methods of interest that a subclass of the Trainer overrides.

    Args:
        cls: The user's class.
        base: The class of this package that it derives from.
    """
    return frozenset(
        name for name in OVERRIDES_OF_INTEREST if getattr(cls, name, None) is not getattr(base, name, None)
    )
