"""The Trainer: what a user calls.

Constructing one stores and checks; it touches no device and starts nothing. The methods that need the model run on
workers (``driver.entry_points``); what they change comes back to the object that the user holds.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar, cast

import torch
from torch import nn
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorWithPadding,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    default_data_collator,
)
from transformers.trainer_pt_utils import (
    get_learning_rates,  # pyright: ignore[reportUnknownVariableType]
    get_num_trainable_parameters,  # pyright: ignore[reportUnknownVariableType]
    get_optimizer_group,  # pyright: ignore[reportUnknownVariableType]
    log_metrics,  # pyright: ignore[reportUnknownVariableType]
    metrics_format,
)
from transformers.trainer_utils import (
    BestRun,
    PredictionOutput,
    TrainOutput,
    number_of_arguments,  # pyright: ignore[reportUnknownVariableType]
    speed_metrics,  # pyright: ignore[reportUnknownVariableType]
)

from raytrainer.arguments.aliases import trainer_keyword
from raytrainer.arguments.convert import as_training_arguments
from raytrainer.arguments.keywords import unknown_argument
from raytrainer.arguments.log_levels import apply_log_level
from raytrainer.arguments.seeding import seed_process
from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.backends.base import Backend
from raytrainer.backends.unbound import UnboundAccelerator
from raytrainer.callbacks.defaults import default_callbacks, terminal_callback
from raytrainer.callbacks.handler import CallbackHandler
from raytrainer.callbacks.saved_states import export_states
from raytrainer.checkpoint.locate import forget_copies, readable
from raytrainer.checkpoint.model_match import model_signature
from raytrainer.checkpoint.published import written_to
from raytrainer.checkpoint.run_storage import storage_of
from raytrainer.data.loader import RankDataLoader
from raytrainer.driver.entry_points import (
    entry_point,
    new_run_id,
    open_local_session,
    runs_in_this_process,
    wrap_overrides,
)
from raytrainer.driver.lost_weights import load_trained_weights, refuse_lost_weights
from raytrainer.errors import ConfigurationError, ModelError
from raytrainer.hooks import TrainerHooks
from raytrainer.hooks.result_files import write_metrics, write_state
from raytrainer.hub.export_uploads import push_after_save
from raytrainer.hub.methods import HubMethods
from raytrainer.loop.queries import Queries
from raytrainer.optim.traits import Traits
from raytrainer.preflight.calls import check_call
from raytrainer.preflight.construction import check_construction
from raytrainer.preflight.facts import overrides_of
from raytrainer.preflight.given_objects import listed_callbacks, optimizer_pair
from raytrainer.preflight.unsupported_methods import (
    UnsupportedMethods,
    check_overrides,
    check_trial,
)
from raytrainer.process_state import ProcessState
from raytrainer.runtimes.base import Runtime
from raytrainer.runtimes.interrupts import end_as_told
from raytrainer.user_types import DatasetLike, ProcessingClass
from raytrainer.wire.preparations import forget_repeats

if TYPE_CHECKING:
    from raytrainer.worker.memory_metrics import MemoryTracker

logger = logging.getLogger(__name__)


class Trainer(TrainerHooks, HubMethods, Queries, UnsupportedMethods):
    """A Trainer with the API of ``transformers.Trainer`` whose loop runs on Ray workers.

    Args:
        model: The model to train; an instance, or a hub id or path that the workers load.
        args: The arguments; defaults with ``output_dir="tmp_trainer"`` when left out.
        data_collator: Makes batches; pads with the processing class by default.
        train_dataset: Any torch or ``datasets`` dataset.
        eval_dataset: The same, or a dict of them.
        processing_class: Tokenizer, image processor, ...; saved with the model.
        model_init: Makes the model on the workers, anew for each ``train()``.
        compute_loss_func: ``(outputs, labels, num_items_in_batch) -> loss``: the sum of the losses divided by
            ``num_items_in_batch``, or the mean of the batch. It may leave out the third parameter.
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

    _evaluates: ClassVar[frozenset[str]] = frozenset(
        {"loss", "runtime", "samples_per_second", "steps_per_second"}
    )
    """Metrics of an evaluation without ``compute_metrics``."""

    def __init__(
        self,
        model: nn.Module | str | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: DatasetLike | None = None,
        eval_dataset: DatasetLike | dict[str, DatasetLike] | str | None = None,
        processing_class: ProcessingClass | None = None,
        model_init: Callable[..., nn.Module] | None = None,
        compute_loss_func: Callable[..., Any] | None = None,
        compute_metrics: Callable[..., dict[str, Any]] | None = None,
        callbacks: list[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None = None,
        preprocess_logits_for_metrics: Callable[..., Any] | None = None,
        tokenizer: ProcessingClass | None = None,
        scaling_config: Any = None,
        run_config: Any = None,
        **unknown: object,
    ) -> None:
        if unknown:
            raise unknown_argument("Trainer", list(unknown), list(Trainer.__init__.__annotations__))
        check_overrides(type(self), Trainer)
        users_own = set(vars(self))  # what a subclass set before it called this constructor
        self._process = ProcessState()
        processing_class = trainer_keyword(tokenizer, processing_class)
        self.args = as_training_arguments(args, scaling_config, run_config)
        forget_repeats()
        seed_process(self.args)
        apply_log_level(self.args)
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
        self.optimizer, self.lr_scheduler = optimizer_pair(optimizers)
        self.optimizer_cls_and_kwargs = optimizer_cls_and_kwargs
        self.callback_handler = CallbackHandler(
            [*default_callbacks(self.args), *listed_callbacks(callbacks), terminal_callback(self.args)],
            model if isinstance(model, nn.Module) else None,
            processing_class,
            self.optimizer,
            self.lr_scheduler,
        )
        self._validate_args()
        self.control = TrainerControl()
        self.state = TrainerState(
            is_local_process_zero=self.is_local_process_zero(),
            is_world_process_zero=self.is_world_process_zero(),
            stateful_callbacks=export_states(self.callback_handler.callbacks, self.control),  # pyright: ignore[reportArgumentType]
        )
        self.is_in_train = False
        self.current_flos = 0.0
        self.current_gradient_accumulation_steps = 1
        self.hp_name: Callable[[Any], str] | None = None
        self.hub_model_id: str | None = None
        self.neftune_noise_alpha = self.args.neftune_noise_alpha
        self.is_deepspeed_enabled = self.args.zero is not None
        self.is_fsdp_enabled = self.args.sharding is not None
        self._signature_columns: list[str] | None = None
        self._traits = None
        if isinstance(model, nn.Module):
            self._inspect(model)
        self._train_batch_size = self.args.per_device_train_batch_size
        self._created_lr_scheduler = False
        self._trial: Any = None
        self.hp_search_backend: Any = None
        self._optimizer_traits: Traits | None = None
        self._unbound_accelerator: UnboundAccelerator | None = None
        self._own_attributes: frozenset[str] = frozenset(vars(self)) - users_own | {"_own_attributes"}
        """Attributes that the base class keeps; all others are the user's, and come back from the workers."""
        self.control = self.callback_handler.on_init_end(self.args, self.state, self.control)

    def _use_arguments(self, args: TrainingArguments) -> None:
        """Replace the arguments, and what the constructor derived from them."""
        self.args = args
        self.neftune_noise_alpha = args.neftune_noise_alpha
        self.is_deepspeed_enabled = args.zero is not None
        self.is_fsdp_enabled = args.sharding is not None
        self._train_batch_size = args.per_device_train_batch_size

    def __init_subclass__(cls, **kwargs: object) -> None:
        super().__init_subclass__(**kwargs)
        wrap_overrides(cls)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_process"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._process = ProcessState()

    # ---- what a user calls --------------------------------------------------------------------------------------

    @entry_point
    def train(
        self,
        resume_from_checkpoint: str | bool | None = None,
        trial: object = None,
        ignore_keys_for_eval: list[str] | None = None,
    ) -> TrainOutput:
        """Train.

        Args:
            resume_from_checkpoint: None or False starts from the beginning; True goes on from the newest checkpoint
                in ``output_dir`` that verifies; "auto" does so if there is one, and starts from the beginning where
                ``output_dir`` has none, so that a job may be submitted again as it is; a path or a URI goes on from
                that one.
            trial: Hyperparameters by name. ``model_init`` and hooks get them, and so does ``state.trial_params``; the
                arguments stay as they are.
            ignore_keys_for_eval: Outputs of the model that evaluation leaves out.

        Returns:
            Number of steps, mean training loss, metrics.

        Raises:
            ConfigurationError: For input that cannot be trained with, before any worker starts.
            CheckpointError: If there is nothing to resume from.
            TrainingFailed: If workers failed for good; leads with the user's exception.
            SystemExit: With ``sigterm_exit_code``, after a SIGTERM: the run is saved, and the process was told to end.
        """
        from raytrainer.worker.train_task import train_on_rank

        self._trial = check_trial(trial)
        session = self._process.session
        assert session is not None, "an entry point runs on a bound trainer"
        with session.listening() as heard:
            output = train_on_rank(
                self,
                runtime=session.runtime,
                resume_from_checkpoint=resume_from_checkpoint,
                ignore_keys_for_eval=ignore_keys_for_eval,
                is_restart=session.is_restart,
                compute_loss_override=self._compute_loss_override(),
            )
        session.has_trained = True
        # All ranks: those that a launcher told to end one of end together.
        if session.runtime.agree([int(heard.sigterm)])[0]:
            end_as_told(self.args.sigterm_exit_code)
        return output

    def hyperparameter_search(
        self,
        hp_space: dict[str, Any] | Callable[..., Any] | None = None,
        compute_objective: Callable[[dict[str, float]], Any] | str | None = None,
        n_trials: int = 20,
        direction: str | list[str] = "minimize",
        backend: Any = None,
        hp_name: Callable[[Any], str] | None = None,
        **kwargs: Any,
    ) -> BestRun | list[BestRun]:
        """Search for good hyperparameters: a sweep with Ray Tune, whose trials have Ray workers as this trainer has.

        The trainer then holds the best arguments. The sweep's directory, in ``output_dir``, has the checkpoints of the
        trials, ``sweep.json`` and a picture.

        Args:
            hp_space: Name -> sampler of ``ray.tune``; or a function of the trial that returns such a dict, or that
                calls ``trial.suggest_float`` and so on, as with Optuna. Names are fields of the arguments, and names
                that ``model_init(trial)`` reads. The default space of ``transformers`` if left out.
            compute_objective: ``metrics -> number`` (one for each direction), or the name of a metric. By default
                ``metric_for_best_model``, else the evaluation loss; to maximize, the only metric that is not a loss.
            n_trials: Number of trials (``grid_search`` multiplies it).
            direction: ``"minimize"``, ``"maximize"``, or a list of them for several objectives.
            backend: ``"ray"`` (the default), or ``"optuna"`` for Optuna's own sampler.
            hp_name: Names a trial's directory by its hyperparameters.
            **kwargs: ``scheduler``, ``search_alg``, ``resources_per_trial``, ``max_concurrent_trials``,
                ``time_budget_s``, ``storage_path``, ``name``, ``resume``, ``scope``, ``load_best``; see
                ``raytrainer.tune.options.SweepOptions``.

        Returns:
            ``run_id``, ``objective``, ``hyperparameters`` and ``run_summary`` of the best trial; a list of them, the
            Pareto front, for several directions.

        Raises:
            ConfigurationError: For a sweep that cannot run, before a trial starts.
            RayTrainerError: If no trial gave an objective.
        """
        from raytrainer.tune.search import search

        return search(self, hp_space, compute_objective, n_trials, direction, backend, hp_name, kwargs)

    @entry_point
    def evaluate(
        self,
        eval_dataset: DatasetLike | dict[str, DatasetLike] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Evaluate on a dataset, a dict of them, or the trainer's own.

        Returns:
            ``<prefix>_loss`` (mean over target items), what ``compute_metrics`` gives, and speed.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, one in cast("dict[str, Any]", dataset).items():
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
        storage_of(self.args.output_dir).share()
        return output.metrics

    @entry_point
    def predict(
        self, test_dataset: DatasetLike, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
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

    def _timed_loop(self, dataloader: DataLoader[Any], *, metric_key_prefix: str, **options: object) -> Any:
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

        On a driver the weights are fetched from the workers and written here. ``output_dir`` may be a URI.
        """
        if self._process.weights_are_on_workers:
            self._fetch_weights()
        refuse_lost_weights(self, "save_model")
        with written_to(output_dir if output_dir is not None else str(self.args.output_dir)) as directory:
            self._save(directory)
        if self.args.push_to_hub and not _internal_call:
            push_after_save(self)

    def end(self) -> None:
        """End the workers. Weights, state and results stay with this object."""
        if self._process.workers is not None:
            self._process.workers.end(self)
        elif self._process.session is not None:
            leave = getattr(self._process.session.runtime, "leave", None)
            if leave is not None:
                leave()
        if self._process.renderer is not None:
            self._process.renderer.close()

    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback, a class or an instance."""
        self.callback_handler.add_callback(callback)

    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> Any:
        """Remove a callback and return it; None if it is not there."""
        return cast("Any", self.callback_handler.pop_callback(callback))

    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Remove a callback."""
        self.callback_handler.remove_callback(callback)

    def is_local_process_zero(self) -> bool:
        """Whether this is the first process on its node."""
        return self.args.local_process_index == 0

    def is_world_process_zero(self) -> bool:
        """Whether this is rank 0, or a driver."""
        return self.args.process_index == 0

    def call_model_init(self, trial: object = None) -> nn.Module:
        """Make a model with ``model_init``."""
        assert self.model_init is not None
        takes_trial = number_of_arguments(self.model_init) > 0
        of_trial = self._trial if trial is None else trial
        model: Any = self.model_init(of_trial) if takes_trial else self.model_init()
        if not isinstance(model, nn.Module):
            what = "None" if model is None else f"a {type(model).__name__}"
            raise ModelError(
                f"model_init returned {what}, but a torch.nn.Module was expected. Return the model from it."
            )
        return model

    log_metrics = cast("Callable[..., Any]", log_metrics)
    metrics_format = staticmethod(metrics_format)
    save_metrics = cast("Callable[..., Any]", write_metrics)
    save_state = cast("Callable[..., Any]", write_state)
    get_learning_rates = cast("Callable[..., Any]", get_learning_rates)
    get_num_trainable_parameters = cast("Callable[..., Any]", get_num_trainable_parameters)
    get_optimizer_group = cast("Callable[..., Any]", get_optimizer_group)

    # ---- what belongs to this process -------------------------------------------------------------------------------

    def _validate_args(self) -> None:
        """Check what the constructor was given."""
        check_construction(self)

    @property
    def _runtime(self) -> Runtime:
        return self._process.bound_runtime()

    @property
    def _backend(self) -> Backend:
        return self._process.bound_backend()

    @property
    def accelerator(self) -> Any:
        """Accelerate's ``Accelerator`` of this process; before a task runs here, one that notes what it prepares."""
        if self._process.accelerator is not None:
            return self._process.accelerator
        if self._unbound_accelerator is None:
            self._unbound_accelerator = UnboundAccelerator(self.args)
        return self._unbound_accelerator

    @accelerator.setter
    def accelerator(  # the protocol says what a property is
        self, accelerator: Any
    ) -> None:
        self._process.accelerator = accelerator

    def _bind_accelerator(self, accelerator: Any) -> None:
        """All ranks: use the accelerator of a backend, and prepare with it what was to be prepared."""
        self.accelerator = accelerator
        early, self._unbound_accelerator = self._unbound_accelerator, None
        if early is None:
            return
        self._process.accelerator_alias = early
        own = {name: vars(self)[name] for name in ("optimizer", "lr_scheduler")} | self._user_attributes()
        callbacks: list[object] = self.callback_handler.callbacks
        early.bind(accelerator, own, *(vars(callback) for callback in callbacks))
        vars(self).update(own)

    @property
    def model_wrapped(self) -> Any:
        """The module that trains: the model, or the wrapper that a backend put around it."""
        return self.model if self._process.session is None else self._process.model_wrapped

    @model_wrapped.setter
    def model_wrapped(self, model: nn.Module) -> None:
        self._process.model_wrapped = model

    @property
    def _memory_tracker(self) -> MemoryTracker:
        assert self._process.memory_tracker is not None, "an entry point runs on a bound trainer"
        return self._process.memory_tracker

    # ---- the model that the user holds --------------------------------------------------------------------------

    @property
    def model(self) -> Any:
        """The model. On a driver, its weights are those of the workers as of the last task."""
        if self._process.weights_are_on_workers:
            self._fetch_weights()
        if self._process.session is None:
            if self._own_model is None and self.model_init is not None:
                self._hold_model(self.call_model_init())
            elif isinstance(self._own_model, str):
                self._hold_model(self._load_named_model(str(readable(self._own_model))))
                forget_copies()
        return self._own_model

    @model.setter
    def model(self, model: nn.Module) -> None:
        self._process.weights_are_lost = False
        self._set_model(model)

    def _set_model(self, model: nn.Module) -> None:
        self._own_model = model
        if "callback_handler" in vars(self):
            self.callback_handler.model = model  # the one before it is not sent to workers

    def _hold_model(self, model: nn.Module) -> None:
        """Driver: hold the model that the workers have."""
        self._set_model(model)
        if self._process.workers is not None:
            self._process.workers.note_model(self)

    def _fetch_weights(self) -> None:
        # Cleared first: reading self.model below must not come back here.
        self._process.weights_are_on_workers = False
        assert self._process.workers is not None, "only workers can have the weights"
        weights = self._process.workers.weights()
        if weights is not None:
            self._take_weights(weights)
        elif not load_trained_weights(self, self._process.workers.trained):
            self._process.weights_are_lost = True
            return
        self._process.workers.note_model(self)

    def _take_weights(self, weights: dict[str, Any]) -> None:
        self.model.load_state_dict(weights)

    def _load_named_model(self, name: str) -> nn.Module:
        from raytrainer.worker.setup import load_model

        return load_model(name)

    def _export_weights(self) -> dict[str, torch.Tensor]:
        return self._backend.full_state_dict(self.model)

    def _model_signature(self) -> str:
        return model_signature(self.model)

    # ---- where it runs ------------------------------------------------------------------------------------------

    def _launch(self, method: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Run an entry point of a trainer that is not bound to a process."""
        if method == "train":
            self._finish_current_push()
        self._check_call(method, args, kwargs)
        if runs_in_this_process(self.args):
            if self._process.workers is not None:
                self._process.workers.end(self)  # num_workers was set to 0 since
                refuse_lost_weights(self, method)
            session = open_local_session(self)
            # All ranks of a launcher: each would make up its own.
            session.runtime.run_id = session.runtime.broadcast(new_run_id())
            return getattr(self, method)(*args, **kwargs)
        if method == "evaluation_loop" and isinstance(
            args[0] if args else kwargs.get("dataloader"), RankDataLoader
        ):
            raise ConfigurationError(
                "evaluation_loop was called on a driver with a loader that the driver made, which has no rank to give "
                "batches to. Call evaluate(dataset) or predict(dataset): each worker makes its own loader there."
            )
        if self._process.workers is None:
            from raytrainer.driver.workers import Workers

            self._process.workers = Workers()
        return self._process.workers.call(self, method, args, kwargs)

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
        from raytrainer.loop.item_count import takes_count

        return takes_count(override)

    def _user_attributes(self) -> dict[str, Any]:
        """Attributes that a subclass or its hooks set, to go back to the driver."""
        return {name: value for name, value in vars(self).items() if name not in self._own_attributes}


def default_collator(processing_class: ProcessingClass | None) -> Callable[[list[Any]], Any]:
    """The collator of a trainer that was given none: pads if the processing class can pad."""
    if isinstance(processing_class, PreTrainedTokenizerBase | SequenceFeatureExtractor):
        return DataCollatorWithPadding(processing_class)  # pyright: ignore[reportArgumentType]
    return default_data_collator
