"""The trainer as the rest of the package sees it: public attributes, hooks, and the state of its process.

The loop, the evaluation, the uploads and the worker never import the trainer; they are handed the user's own subclass,
whose overridden hooks they call. Types of higher rooms are imported for type checkers alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.data import DataLoader
    from transformers import TrainerControl, TrainerState
    from transformers.trainer_utils import EvalLoopOutput

    from raytrainer.arguments.training_arguments import TrainingArguments
    from raytrainer.backends.base import Backend
    from raytrainer.backends.unbound import UnboundAccelerator
    from raytrainer.callbacks.handler import CallbackHandler
    from raytrainer.optim.traits import Traits
    from raytrainer.process_state import ProcessState
    from raytrainer.runtimes.base import Runtime
    from raytrainer.user_types import Batch, DatasetLike
    from raytrainer.worker.memory_metrics import MemoryTracker


class TrainerProtocol(Protocol):
    """What other rooms may read, set and call on a trainer."""

    args: TrainingArguments
    state: TrainerState
    control: TrainerControl
    callback_handler: CallbackHandler
    model: Any
    """The user's own model; on a driver with the weights of the last task."""
    model_wrapped: Any
    """The module that trains: ``model``, or the wrapper that a backend put around it."""
    model_init: Callable[..., nn.Module] | None
    accelerator: Any
    """Accelerate's ``Accelerator`` of this process, which has no types; on a driver one that notes what it prepares."""
    optimizer: Any
    lr_scheduler: Any
    optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None
    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    data_collator: Any
    compute_metrics: Callable[..., dict[str, Any]] | None
    compute_loss_func: Callable[..., Any] | None
    preprocess_logits_for_metrics: Callable[..., Any] | None
    label_smoother: Any
    label_names: list[str]
    can_return_loss: bool
    model_accepts_loss_kwargs: bool
    loss_is_scaled_for_ga: bool | None
    place_model_on_device: bool
    """False: the model stays on the device that it is on."""
    neftune_noise_alpha: float | None
    current_gradient_accumulation_steps: int
    current_flos: float
    is_in_train: bool
    hub_model_id: str | None
    hp_name: Callable[[Any], str] | None
    _trial: Any
    """What ``train(trial=...)`` was given: hyperparameters by name, or None."""

    _supports: ClassVar[frozenset[str]]
    """Fields of ``Seq2SeqTrainingArguments`` that the trainer's class implements."""
    _evaluates: ClassVar[frozenset[str]]
    """Metrics of an evaluation without ``compute_metrics``."""
    _process: ProcessState
    _own_model: Any
    """The model as it was passed: an instance, a name, or None."""
    _own_collator: Any
    _unbound_accelerator: UnboundAccelerator | None
    """Notes what it prepares, until the trainer is bound to this process; None unless somebody asked for it."""
    _signature_columns: list[str] | None
    _train_batch_size: int
    """Samples of a micro-batch: those of the arguments, or those that ``auto_find_batch_size`` found."""
    _optimizer_traits: Traits | None
    """Those of the catalogue's entry that made the optimizer; None for the user's own."""
    _created_lr_scheduler: bool
    """Whether the schedule was built for the arguments; False for the user's own."""

    @property
    def _runtime(self) -> Runtime: ...

    @property
    def _backend(self) -> Backend: ...

    @property
    def _memory_tracker(self) -> MemoryTracker: ...

    @property
    def _compute_loss_takes_count(self) -> bool: ...

    # ---- data -------------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> Any: ...

    def get_eval_dataloader(
        self, eval_dataset: DatasetLike | dict[str, DatasetLike] | str | None = None
    ) -> Any: ...

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]: ...

    def num_examples(self, dataloader: Any) -> int: ...

    def _prepare_input(self, data: object) -> Any: ...

    def _prepare_inputs(self, inputs: Batch) -> Any: ...

    # ---- model, optimizer, schedule ---------------------------------------------------------------------------------

    def call_model_init(self, trial: object = None) -> nn.Module: ...

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None: ...

    def create_optimizer(self, model: nn.Module | None = None) -> Any: ...

    # With the instance although it is static here: that is how an override is declared.
    def get_optimizer_cls_and_kwargs(self, args: TrainingArguments, model: Any = None) -> tuple[Any, Any]: ...

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any: ...

    def _load_named_model(self, name: str) -> Any: ...

    def _use_model(self, model: nn.Module) -> None: ...

    def _inspect(self, model: nn.Module) -> None: ...

    def _move_model_to_device(self, model: nn.Module, device: torch.device) -> None: ...

    def _bind_accelerator(self, accelerator: Any) -> None: ...

    def _drop_created_scheduler(self) -> None: ...

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]: ...

    def _get_learning_rate(self) -> float: ...

    # ---- a micro-batch ----------------------------------------------------------------------------------------------

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor: ...

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any: ...

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]: ...

    def floating_point_ops(self, inputs: dict[str, Any]) -> int: ...

    # ---- evaluation -------------------------------------------------------------------------------------------------

    def evaluate(
        self,
        eval_dataset: DatasetLike | dict[str, DatasetLike] | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]: ...

    def evaluation_loop(
        self,
        dataloader: DataLoader[Any],
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput: ...

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]: ...

    def _evaluation_model(self) -> nn.Module: ...

    def _prediction_padding(self) -> int: ...

    def _evaluate(
        self, trial: object, ignore_keys_for_eval: object, skip_scheduler: bool = False
    ) -> dict[str, float]: ...

    def _report_to_hp_search(self, trial: Any, step: int, metrics: dict[str, float]) -> None: ...

    def _use_arguments(self, args: TrainingArguments) -> None: ...

    def _determine_best_metric(self, metrics: dict[str, float], trial: object) -> bool: ...

    # ---- logs, checkpoints, uploads ---------------------------------------------------------------------------------

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None: ...

    def store_flos(self) -> None: ...

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None: ...

    def push_to_hub(self, commit_message: str | None = "End of training", **kwargs: object) -> Any: ...

    def is_local_process_zero(self) -> bool: ...

    def is_world_process_zero(self) -> bool: ...

    def _save_checkpoint(self, model: nn.Module, trial: object) -> None: ...

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None: ...

    def _finish_current_push(self) -> None: ...

    def _get_output_dir(self, trial: object) -> str: ...

    def _save_optimizer_and_scheduler(self, output_dir: str) -> Any: ...

    def _save_scaler(self, output_dir: str) -> Any: ...

    def _save_rng_state(self, output_dir: str) -> Any: ...

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None: ...

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None: ...

    def _load_scaler(self, checkpoint: str | None) -> None: ...

    def _load_rng_state(self, checkpoint: str | None) -> None: ...

    def _load_callback_state(self) -> None: ...

    def _load_best_model(self) -> None: ...

    def _model_signature(self) -> str: ...

    def _task_state(self) -> dict[str, Any]: ...

    def _restore_task_state(self, state: dict[str, Any]) -> None: ...

    # ---- between driver and workers ---------------------------------------------------------------------------------

    def _overrides(self) -> frozenset[str]: ...

    def _fetch_weights(self) -> None: ...

    def _export_weights(self) -> dict[str, torch.Tensor]: ...

    def _user_attributes(self) -> dict[str, Any]: ...


if TYPE_CHECKING:
    TrainerParts = TrainerProtocol
else:

    class TrainerParts:
        """Base of the classes that the Trainer is made of: for type checkers the protocol, so that each knows the rest.

        At run time a protocol would give every user's subclass a metaclass of its own.
        """
