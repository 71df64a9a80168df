"""The Trainer: what a user calls.

Constructing one stores and checks; it touches no device and starts nothing. The methods that need the model run on
workers (``driver.entry_points``); what they change comes back to the object that the user holds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    TrainerControl,
    TrainerState,
    default_data_collator,
)
from transformers.trainer_pt_utils import (
    get_learning_rates,
    get_num_trainable_parameters,
    get_optimizer_group,
    log_metrics,
    metrics_format,
    save_metrics,
    save_state,
)
from transformers.trainer_utils import PredictionOutput, TrainOutput, number_of_arguments, speed_metrics

from raytrainer.arguments.aliases import trainer_keyword
from raytrainer.arguments.convert import as_training_arguments
from raytrainer.arguments.keywords import unknown_argument
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.callbacks.defaults import default_callbacks
from raytrainer.callbacks.handler import CallbackHandler
from raytrainer.checkpoint.model_match import model_signature
from raytrainer.driver.entry_points import (
    entry_point,
    new_run_id,
    open_local_session,
    runs_in_this_process,
    wrap_overrides,
)
from raytrainer.errors import ConfigurationError
from raytrainer.hooks import TrainerHooks
from raytrainer.hub.card import write_card
from raytrainer.hub.run_uploads import card_facts, open_repository, push_after_save, push_output_dir
from raytrainer.loop.queries import Answers
from raytrainer.preflight.calls import check_call
from raytrainer.preflight.construction import check_construction
from raytrainer.preflight.facts import overrides_of
from raytrainer.preflight.unsupported_methods import (
    UnsupportedMethods,
    check_trial,
    warn_of_overrides_never_called,
)

logger = logging.getLogger(__name__)

PROCESS_BOUND = frozenset(
    {
        "_session",
        "_workers",
        "_runtime",
        "_backend",
        "_run",
        "_renderer",
        "_loss_scaling",
        "_flop_counter",
        "_eval_loaders",
        "_memory_tracker",
        "accelerator",
        "model_wrapped",
        "_weights_are_elsewhere",
        "_trained",
        "_hub",
    }
)
"""Attributes that belong to one process and never travel."""

_GIVEN_BACK_APART = frozenset({"state", "control", "callback_handler", "args"})


class Trainer(TrainerHooks, Answers, UnsupportedMethods):
    """A Trainer with the API of ``transformers.Trainer`` whose loop runs on Ray workers.

    Args:
        model: The model to train; an instance, or a hub id or path that the workers load.
        args: The arguments; defaults with ``output_dir="tmp_trainer"`` when left out.
        data_collator: Makes batches; pads with the processing class by default.
        train_dataset: Any torch or ``datasets`` dataset.
        eval_dataset: The same, or a dict of them.
        processing_class: Tokenizer, image processor, ...; saved with the model.
        model_init: Makes the model on the workers, anew for each ``train()``.
        compute_loss_func: ``(outputs, labels, num_items_in_batch) -> loss``.
        compute_metrics: ``EvalPrediction -> dict``.
        callbacks: Classes or instances of ``transformers.TrainerCallback``.
        optimizers: An optimizer on the model's parameters, and a schedule; each may be None.
        optimizer_cls_and_kwargs: An optimizer class and its arguments, made on the workers.
        preprocess_logits_for_metrics: ``(logits, labels) -> logits`` before they are gathered.
        tokenizer: Earlier name of ``processing_class``.
        scaling_config: Ray's own ``ScalingConfig``, instead of the flat arguments.
        run_config: Ray's own ``RunConfig``, instead of the flat arguments.

    Raises:
        ConfigurationError: If something is missing, contradicts something, or cannot be trained with.
    """

    loss_is_scaled_for_ga: bool | None = None
    """Set by a subclass whose ``compute_loss`` scales by itself: True divided, False a batch's mean."""

    _supports: ClassVar[frozenset[str]] = frozenset()
    """Fields of ``Seq2SeqTrainingArguments`` that this class implements."""

    def __init__(
        self,
        model: nn.Module | str | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        tokenizer: Any = None,
        scaling_config: Any = None,
        run_config: Any = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            raise unknown_argument("Trainer", list(unknown), list(Trainer.__init__.__annotations__))
        warn_of_overrides_never_called(type(self), Trainer)
        self._forget_process()
        processing_class = trainer_keyword(tokenizer, processing_class)
        self.args = as_training_arguments(args, scaling_config, run_config)
        self._own_model = model
        self.model_init = model_init
        self.train_dataset = train_dataset
        self.eval_dataset = eval_dataset
        self.processing_class = processing_class
        self._own_collator = data_collator
        self.data_collator = (
            data_collator if data_collator is not None else default_collator(processing_class)
        )
        self.compute_loss_func = compute_loss_func
        self.compute_metrics = compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = optimizers
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        check_construction(self)
        self.callback_handler = CallbackHandler(
            default_callbacks(self.args) + list(callbacks or []),
            None,
            processing_class,
            self.optimizer,
            self.lr_scheduler,
        )
        self.control = TrainerControl()
        self.state = TrainerState()
        self.is_in_train = False
        self.current_flos = 0.0
        self.current_gradient_accumulation_steps = 1
        self.hp_name = None
        self.hub_model_id: str | None = None
        self._trained_by: int | None = None
        self.label_names: list[str] = list(self.args.label_names or [])
        self.can_return_loss = False
        self.model_accepts_loss_kwargs = False
        self.label_smoother: Any = None
        self.neftune_noise_alpha = self.args.neftune_noise_alpha
        self.is_deepspeed_enabled = self.args.zero is not None
        self.is_fsdp_enabled = self.args.sharding is not None
        self._loss_shifts_labels = self._smoother_shifts = False
        self._signature_columns: list[str] | None = None
        self._train_batch_size = self.args.per_device_train_batch_size
        self._created_lr_scheduler = False
        self._optimizer_traits: Any = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        wrap_overrides(cls)

    def _forget_process(self) -> None:
        self._session: Any = None
        self._workers: Any = None
        self._runtime: Any = None
        self._backend: Any = None
        self._run: Any = None
        self._renderer: Any = None
        self._loss_scaling: Any = None
        self._flop_counter: Any = None
        self._eval_loaders: dict[str, Any] = {}
        self._memory_tracker: Any = None
        self.accelerator: Any = None
        self.model_wrapped: Any = None
        self._weights_are_elsewhere = False
        self._trained: Any = None
        self._hub: Any = None

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in PROCESS_BOUND}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget_process()

    # ---- what a user calls --------------------------------------------------------------------------------------

    @entry_point
    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: Any = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train.

        Args:
            resume_from_checkpoint: None or False starts from the beginning; True goes on from the newest checkpoint
                in ``output_dir`` that verifies; a path goes on from that one.
            trial: Accepted for the signature of ``transformers``; must be None.
            ignore_keys_for_eval: Outputs of the model that evaluation leaves out.

        Returns:
            Number of steps, mean training loss, metrics.

        Raises:
            ConfigurationError: For input that cannot be trained with, before any worker starts.
            CheckpointError: If there is nothing to resume from.
            TrainingFailed: If workers failed for good; leads with the user's exception.
        """
        from raytrainer.worker.train_task import train_on_rank

        check_trial(trial)
        session = self._session
        with session.listening():
            output = train_on_rank(
                self,
                runtime=session.runtime,
                resume_from_checkpoint=resume_from_checkpoint,
                ignore_keys_for_eval=ignore_keys_for_eval,
                is_restart=session.is_restart,
                compute_loss_override=self._compute_loss_override(),
            )
        session.has_trained = True
        return output

    @entry_point
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Evaluate on a dataset, a dict of them, or the trainer's own.

        Returns:
            ``<prefix>_loss`` (mean over target items), what ``compute_metrics`` gives, and speed.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, one in dataset.items():
                metrics |= self.evaluate(
                    eval_dataset=name if eval_dataset is None else one,
                    ignore_keys=ignore_keys,
                    metric_key_prefix=f"{metric_key_prefix}_{name}",
                )
            return metrics
        self._memory_tracker.start()
        self._ready_to_predict()
        output = self._timed_loop(
            self.get_eval_dataloader(eval_dataset),
            description="Evaluation",
            prediction_loss_only=True if self.compute_metrics is None else None,
            ignore_keys=ignore_keys,
            metric_key_prefix=metric_key_prefix,
        )
        self.log(output.metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, output.metrics)
        self._memory_tracker.stop_and_update_metrics(output.metrics)
        return output.metrics

    @entry_point
    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Predict on a dataset.

        Returns:
            Predictions and labels as numpy arrays (ragged ones padded with -100), and metrics.
        """
        self._memory_tracker.start()
        self._ready_to_predict()
        output = self._timed_loop(
            self.get_test_dataloader(test_dataset),
            description="Prediction",
            prediction_loss_only=None,
            ignore_keys=ignore_keys,
            metric_key_prefix=metric_key_prefix,
        )
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, output.metrics)
        self._memory_tracker.stop_and_update_metrics(output.metrics)
        return PredictionOutput(output.predictions, output.label_ids, output.metrics)

    def _ready_to_predict(self) -> None:
        from raytrainer.worker.setup import build_model

        if self.model is None:
            build_model(self)

    def _timed_loop(self, dataloader: Any, *, metric_key_prefix: str, **options: Any) -> Any:
        began = time.time()
        output = self.evaluation_loop(dataloader, metric_key_prefix=metric_key_prefix, **options)
        per_step = self.args.eval_batch_size * self.args.world_size
        assert output.num_samples is not None
        assert output.metrics is not None
        num_steps = math.ceil(output.num_samples / per_step)
        output.metrics.update(
            speed_metrics(metric_key_prefix, began, num_samples=output.num_samples, num_steps=num_steps)
        )
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save weights, config and processing class, to be read by ``from_pretrained``.

        On a driver the weights are fetched from the workers and written here.
        """
        self._save(output_dir if output_dir is not None else str(self.args.output_dir))
        if self.args.push_to_hub and not _internal_call:
            push_after_save(self)

    def init_hf_repo(self, token: str | None = None, private: bool | None = None) -> None:
        """Make the repository on the Hub, unless it exists, and set ``hub_model_id`` to its whole name.

        Args:
            token: May write there; ``hub_token``, or that of this process, by default.
            private: Who may see a new one; ``hub_private_repo`` by default.

        Raises:
            HubError: If the Hub does not answer, or refuses.
        """
        if self.is_world_process_zero():
            open_repository(self, token=token, private=private)

    def create_model_card(
        self,
        language: str | None = None,
        license: str | None = None,
        tags: str | list[str] | None = None,
        model_name: str | None = None,
        finetuned_from: str | None = None,
        tasks: str | list[str] | None = None,
        dataset_tags: str | list[str] | None = None,
        dataset: str | list[str] | None = None,
        dataset_args: str | list[str] | None = None,
    ) -> None:
        """Write a draft of the model card, ``README.md`` in ``output_dir``; what is not given is found out.

        It has the hyperparameters, the table of evaluations, the last evaluation, and versions.
        """
        if self.is_world_process_zero():
            write_card(
                self,
                Path(str(self.args.output_dir)),
                world_size=self._trained_by or self.args.world_size,
                language=language,
                license=license,
                tags=tags,
                model_name=model_name,
                finetuned_from=finetuned_from,
                tasks=tasks,
                dataset_tags=dataset_tags,
                dataset=dataset,
                dataset_args=dataset_args,
            )

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """Save the model in ``output_dir``, write its card, and upload the directory without its checkpoints.

        All ranks call it; rank 0 uploads. On a driver the weights are fetched from the workers, and the driver
        uploads.

        Args:
            commit_message: Of the commit.
            blocking: Wait for the upload.
            token: May write there; ``hub_token``, or that of this process, by default.
            revision: The branch; ``hub_revision`` by default.
            private: Who may see a new repository; ``hub_private_repo`` by default.
            kwargs: For ``create_model_card``.

        Returns:
            The ``CommitInfo``, or a future of it if not blocking; None on other ranks than 0.

        Raises:
            HubError: If it failed. What was saved stays.
        """
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        self.save_model(_internal_call=True)
        if not self.is_world_process_zero():
            return None
        repository = open_repository(self, token=token, private=private)
        self.create_model_card(**card_facts(self, kwargs))
        return push_output_dir(
            self,
            repository,
            message=commit_message or "End of training",
            revision=revision,
            blocking=blocking,
        )

    def end(self) -> None:
        """End the workers. Weights, state and results stay with this object."""
        if self._workers is not None:
            self._workers.end(self)
        elif self._session is not None:
            leave = getattr(self._session.runtime, "leave", None)
            if leave is not None:
                leave()
        if self._renderer is not None:
            self._renderer.close()

    def add_callback(self, callback: Any) -> None:
        """Add a callback, a class or an instance."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: Any) -> Any:
        """Remove a callback and return it; None if it is not there."""
        return self.callback_handler.pop_callback(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback."""
        self.callback_handler.remove_callback(callback)

    def is_local_process_zero(self) -> bool:
        """Whether this is the first process of its node."""
        return self.args.local_process_index == 0

    def is_world_process_zero(self) -> bool:
        """Whether this is rank 0, or a driver."""
        return self.args.process_index == 0

    def call_model_init(self, trial: Any = None) -> nn.Module:
        """Make a model with ``model_init``."""
        assert self.model_init is not None
        model = self.model_init() if number_of_arguments(self.model_init) == 0 else self.model_init(trial)
        if model is None:
            raise ConfigurationError("model_init returned None. Return the model from it.")
        return model

    log_metrics = log_metrics
    metrics_format = staticmethod(metrics_format)
    save_metrics = save_metrics
    save_state = save_state
    get_learning_rates = get_learning_rates
    get_num_trainable_parameters = get_num_trainable_parameters
    get_optimizer_group = get_optimizer_group

    # ---- the model that the user holds --------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The model. On a driver, its weights are those of the workers as of the last task."""
        if self._weights_are_elsewhere:
            self._fetch_weights()
        if self._session is None and self._own_model is None and self.model_init is not None:
            self._own_model = self.call_model_init()
        if self._session is None and isinstance(self._own_model, str):
            self._own_model = self._load_named_model(self._own_model)
        return self._own_model

    @model.setter
    def model(self, model: Any) -> None:
        self._own_model = model

    def _fetch_weights(self) -> None:
        # Cleared first: reading self.model below must not come back here.
        self._weights_are_elsewhere = False
        weights = self._workers.weights()
        if weights is None:
            logger.warning("The trained weights were lost with their workers; load the last checkpoint.")
        else:
            self._take_weights(weights)

    def _take_weights(self, weights: dict[str, Any]) -> None:
        self.model.load_state_dict(weights)

    def _load_named_model(self, name: str) -> nn.Module:
        from raytrainer.worker.setup import load_model

        return load_model(name)

    def _export_weights(self) -> dict[str, torch.Tensor]:
        from raytrainer.worker.session import cpu_weights

        return cpu_weights(self.model, rank=self._runtime.rank)

    def _model_signature(self) -> str:
        return model_signature(self.model)

    # ---- where it runs ------------------------------------------------------------------------------------------

    def _launch(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an entry point of a trainer that is not bound to a process."""
        if method == "train":
            self._finish_current_push()
        self._check_call(method, args, kwargs)
        if runs_in_this_process(self.args):
            session = open_local_session(self)
            # All ranks of a launcher: each would make up its own.
            session.runtime.run_id = session.runtime.broadcast(new_run_id())
            return getattr(self, method)(*args, **kwargs)
        if self._workers is None:
            from raytrainer.driver.workers import Workers

            self._workers = Workers()
        return self._workers.call(self, method, args, kwargs)

    def _check_call(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        check_call(self, method, args, kwargs)

    def _overrides(self) -> frozenset[str]:
        return overrides_of(type(self), Trainer)

    def _compute_loss_override(self) -> Any | None:
        override = type(self).compute_loss
        return None if override is Trainer.compute_loss else override

    @property
    def _compute_loss_takes_count(self) -> bool:
        override = self._compute_loss_override()
        if override is None:
            return True
        from raytrainer.loop.loss import takes_count

        return takes_count(override)

    def _user_attributes(self) -> dict[str, Any]:
        """Attributes that a subclass or its hooks set, to go back to the driver."""
        own = set(self.__getstate__()) - OWN_ATTRIBUTES - _GIVEN_BACK_APART
        return {name: getattr(self, name) for name in own}

    def _take_back(self, returned: Any) -> None:
        """Driver: take over what a task left behind on rank 0."""
        if returned.state is not None:
            self.state = returned.state
            self.control = returned.control
            for callback, attributes in zip(
                self.callback_handler.callbacks, returned.callbacks, strict=False
            ):
                if attributes is not None:
                    vars(callback).update(attributes)
        vars(self).update(returned.attributes)


def default_collator(processing_class: Any) -> Callable[[list[Any]], Any]:
    """Pads where there is something that can pad."""
    if isinstance(processing_class, PreTrainedTokenizerBase | SequenceFeatureExtractor):
        return DataCollatorWithPadding(processing_class)  # pyright: ignore[reportArgumentType]
    return default_data_collator


OWN_ATTRIBUTES = frozenset(
    [
        "args",
        "_own_model",
        "model_init",
        "train_dataset",
        "eval_dataset",
        "processing_class",
        "_own_collator",
        "data_collator",
        "compute_loss_func",
        "compute_metrics",
        "preprocess_logits_for_metrics",
        "optimizer",
        "lr_scheduler",
        "optimizer_cls_and_kwargs",
        "callback_handler",
        "control",
        "state",
        "is_in_train",
        "current_flos",
        "current_gradient_accumulation_steps",
        "hp_name",
        "label_names",
        "can_return_loss",
        "model_accepts_loss_kwargs",
        "label_smoother",
        "neftune_noise_alpha",
        "is_deepspeed_enabled",
        "is_fsdp_enabled",
        "_loss_shifts_labels",
        "_smoother_shifts",
        "_signature_columns",
        "_train_batch_size",
        "_created_lr_scheduler",
        "_optimizer_traits",
    ]
)
"""Attributes that the base class keeps itself; everything else is the user's."""
