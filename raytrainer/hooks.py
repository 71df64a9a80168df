"""What a user overrides: the hooks of the Trainer, each delegating in a few lines.

Every hook runs on the workers, on all ranks, dispatched through the user's own subclass. Names, signatures and the
moments at which they are called are those of ``transformers.Trainer``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Sampler, SequentialSampler
from transformers import TrainerControl, TrainerState
from transformers.trainer_pt_utils import nested_detach
from transformers.trainer_utils import EvalLoopOutput, has_length, speed_metrics

from raytrainer.checkpoint.model_files import load_model_weights, save_model_weights, save_sharded_model
from raytrainer.checkpoint.sharded_weights import is_sharded
from raytrainer.config.accelerator import deals_out
from raytrainer.config.arguments import TrainingArguments
from raytrainer.data.columns import drop_unused_columns, signature_columns, strip_in_collator
from raytrainer.data.kinds import adopt_dataset
from raytrainer.data.loader import RankDataLoader, build_loader, to_device
from raytrainer.data.rounds import without_stand_ins
from raytrainer.data.strategies import train_sampler
from raytrainer.data.targets import count_items
from raytrainer.errors import ConfigurationError
from raytrainer.evaluation.loop import PredictionLoop
from raytrainer.loop.saving import save_checkpoint
from raytrainer.loop.step import FlopCounter
from raytrainer.loop.uploading import upload_checkpoint, uploads_saves
from raytrainer.optim.catalogue import build, look_up, parse_options, reduces
from raytrainer.optim.deepspeed_family import build_configured_optimizer, build_configured_schedule
from raytrainer.optim.groups import decay_parameter_names, parameter_groups
from raytrainer.optim.schedules import build_schedule, current_learning_rate, waits_for_metric
from raytrainer.optim.targets import target_parameters
from raytrainer.optim.traits import OptimizerRequest
from raytrainer.telemetry.events import Logged


def is_hf_dataset(dataset: Any) -> bool:
    """Whether a dataset is a ``datasets.Dataset``, found without importing the library."""
    return type(dataset).__module__.startswith("datasets.") and hasattr(dataset, "column_names")


class _Attributes:
    """What the hooks read of the Trainer that they are part of."""

    args: TrainingArguments
    model: Any
    train_dataset: Any
    eval_dataset: Any
    processing_class: Any
    data_collator: Any
    compute_loss_func: Any
    optimizer: Any
    lr_scheduler: Any
    optimizer_cls_and_kwargs: tuple[type, dict[str, Any]] | None
    callback_handler: Any
    state: TrainerState
    control: TrainerControl
    accelerator: Any
    is_in_train: bool
    current_gradient_accumulation_steps: int
    label_names: list[str]
    label_smoother: Any
    can_return_loss: bool
    model_accepts_loss_kwargs: bool
    _runtime: Any
    _hub: Any
    _backend: Any
    _run: Any
    _loss_scaling: Any
    _loss_shifts_labels: bool
    _smoother_shifts: bool
    _eval_loaders: dict[str, Any]
    _is_fill_up: bool = False
    """The batch that is predicted on has no sample that counts on this rank."""
    _prepare_inputs: Callable[[Any], Any]
    _compute_loss_takes_count: Any
    compute_loss_context_manager: Callable[[], Any]
    compute_loss: Callable[..., Any]
    evaluate: Callable[..., dict[str, float]]


class DataHooks(_Attributes):
    """Loaders, samplers and columns."""

    def get_train_dataloader(self) -> Any:
        """Return this rank's loader of the training data.

        An override returns any iterable of batches; one that is sharded over ranks must be so by itself, for instance
        by ``self.accelerator.prepare(loader)``.
        """
        if self.train_dataset is None:
            raise ConfigurationError(
                "Training needs a train_dataset, and the Trainer was given none. Pass train_dataset=."
            )
        return self._get_dataloader(
            self.train_dataset,
            description="Training",
            batch_size=self.args.train_batch_size,
            sampler_fn=self._get_train_sampler,
            is_training=True,
        )

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """Return this rank's loader of the evaluation data.

        Args:
            eval_dataset: A dataset, the name of one in the trainer's dict of datasets, or None for the trainer's own.
        """
        if eval_dataset is None and self.eval_dataset is None:
            raise ConfigurationError(
                "Evaluation needs an eval_dataset, and none was given. Pass eval_dataset=."
            )
        key = eval_dataset if isinstance(eval_dataset, str) else "eval"
        if self.args.dataloader_persistent_workers and key in self._eval_loaders:
            return self._eval_loaders[key]
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(eval_dataset, str):
            dataset = self.eval_dataset[eval_dataset]
        loader = self._get_dataloader(
            dataset,
            description="Evaluation",
            batch_size=self.args.eval_batch_size,
            sampler_fn=self._get_eval_sampler,
        )
        if self.args.dataloader_persistent_workers:
            self._eval_loaders[key] = loader
        return loader

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """Return this rank's loader of a dataset to predict on."""
        return self._get_dataloader(
            test_dataset,
            description="test",
            batch_size=self.args.eval_batch_size,
            sampler_fn=self._get_eval_sampler,
        )

    def _get_dataloader(
        self,
        dataset: Any,
        description: str,
        batch_size: int,
        sampler_fn: Callable[[Any], Sampler[int] | None] | None = None,
        is_training: bool = False,
        dataloader_key: str | None = None,
    ) -> RankDataLoader:
        collate, dataset = self.data_collator, adopt_dataset(dataset)
        # On a driver there is nobody to deal out to.
        scatter = self._runtime.scatter if self._runtime is not None and deals_out(self.args) else None
        # Before columns are dropped: one of them may hold the lengths.
        sampler = sampler_fn(dataset) if sampler_fn is not None and has_length(dataset) else None
        if is_hf_dataset(dataset) and hasattr(dataset, "remove_columns") and has_length(dataset):
            dataset = self._remove_unused_columns(dataset, description=description)
        else:
            collate = self._get_collator_with_removed_columns(collate, description=description)
        return build_loader(
            dataset,  # pyright: ignore[reportArgumentType]
            args=self.args,
            collate=collate,
            batch_size=batch_size,
            sampler=sampler,
            training=is_training,
            scatter=scatter,
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int] | None:
        dataset = self.train_dataset if train_dataset is None else train_dataset
        if dataset is None or not has_length(dataset):
            return None
        names = getattr(self.processing_class, "model_input_names", None)
        return train_sampler(dataset, self.args, input_name=names[0] if names else None)

    def _get_eval_sampler(self, eval_dataset: Any) -> Sampler[int] | None:
        return SequentialSampler(eval_dataset) if has_length(eval_dataset) else None

    def _set_signature_columns_if_needed(self) -> None:
        if self._signature_columns is None:
            self._signature_columns = signature_columns(self.model, self.label_names)

    def _remove_unused_columns(self, dataset: Any, description: str | None = None) -> Any:
        if not self.args.remove_unused_columns:
            return dataset
        self._set_signature_columns_if_needed()
        return drop_unused_columns(
            dataset, self._signature_columns, description=description, model_name=type(self.model).__name__
        )

    def _get_collator_with_removed_columns(self, data_collator: Any, description: str | None = None) -> Any:
        if not self.args.remove_unused_columns:
            return data_collator
        self._set_signature_columns_if_needed()
        return strip_in_collator(
            data_collator,
            self._signature_columns,
            description=description,
            model_name=type(self.model).__name__,
        )

    def num_examples(self, dataloader: Any) -> int:
        """Samples of a loader's dataset; estimated from its length where the dataset has none."""
        dataset = getattr(dataloader, "dataset", None)
        inner = getattr(dataset, "dataset", dataset)
        if inner is not None and has_length(inner):
            return len(inner)
        return len(dataloader) * self.args.train_batch_size

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Any]:
        """Fetch the micro-batches of one step, and count their target items over all ranks.

        Returns:
            The micro-batches (fewer than asked for at the end of the data), and the number of items as a scalar
            tensor; None where nobody divides by it.
        """
        batches = []
        for _ in range(num_batches):
            try:
                batches.append(next(epoch_iterator))
            except StopIteration:
                break
        return batches, self._get_num_items_in_batch(batches, device)

    def _get_num_items_in_batch(self, batch_samples: list[Any], device: torch.device) -> Any:
        scaling = self._loss_scaling
        if not batch_samples or scaling is None or not scaling.needs_count:
            return None
        if not isinstance(batch_samples[0], Mapping) or "labels" not in batch_samples[0]:
            return None
        own = without_stand_ins(self.callback_handler.train_dataloader, batch_samples)
        count = count_items(own or batch_samples[:1], loss_shifts_labels=self._loss_shifts_labels)
        if count is None:
            return None
        if not own:
            count = torch.zeros_like(count)
        if self.args.average_tokens_across_devices and self.args.world_size > 1:
            return self._backend.sum_over_ranks(count.to(device))
        return count.to(device)

    def _prepare_input(self, data: Any) -> Any:
        return to_device(data, self.args.device)

    def _prepare_inputs(self, inputs: Any) -> Any:
        prepared = self._prepare_input(inputs)
        if len(prepared) == 0:
            raise ConfigurationError(
                f"A batch is empty: none of the dataset's keys is taken by {type(self.model).__name__}.forward, which "
                f"takes {self._signature_columns}. Rename the keys, or set remove_unused_columns=False."
            )
        return prepared


class OptimizerHooks(_Attributes):
    """Optimizer and schedule."""

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Build both, unless they exist. An override may build either one."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps=num_training_steps)

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """Build ``self.optimizer`` from the catalogue, unless it exists."""
        if self.optimizer is None:
            target = self.model if model is None else model
            groups = parameter_groups(
                target,
                self.get_decay_parameter_names(target),
                self.args.weight_decay,
                self._target_names(target),
            )
            zero = self.args.zero
            if zero is not None:
                groups = [
                    group for group in groups if group["params"]
                ]  # DeepSpeed takes empty ones out, later
            if self.optimizer_cls_and_kwargs is not None:
                optimizer_class, options = self.optimizer_cls_and_kwargs
                self.optimizer = optimizer_class(groups, **options)
            elif zero is not None and zero.optimizer is not None:
                self.optimizer = build_configured_optimizer(zero, self.args, groups)
            else:
                self.optimizer = self._build_from_catalogue(groups)
        return self.optimizer

    def _target_names(self, model: nn.Module) -> list[str]:
        is_own, traits = self.optimizer_cls_and_kwargs is not None, look_up(self.args.optim).traits
        if is_own or not traits.takes_target_modules:
            return []
        return target_parameters(model, self.args.optim_target_modules or traits.default_targets)

    def _build_from_catalogue(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        args = self.args
        entry = look_up(args.optim)
        request = OptimizerRequest(
            groups=groups,
            learning_rate=args.learning_rate,
            adam_betas=(args.adam_beta1, args.adam_beta2),
            adam_epsilon=args.adam_epsilon,
            options=parse_options(entry, args.optim_args),
            reduces=reduces(entry, args),
            warmup_steps=args.warmup_steps,
        )
        self._optimizer_traits = entry.traits
        return build(entry, request)

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> Any:
        """Build ``self.lr_scheduler``, unless it exists.

        Args:
            num_training_steps: Optimizer steps of the whole run.
            optimizer: Whose learning rate is scheduled; the trainer's own when not given.
        """
        if self.lr_scheduler is None:
            target = self.optimizer if optimizer is None else optimizer
            raw, zero = getattr(target, "optimizer", target), self.args.zero
            if zero is not None and zero.scheduler is not None:
                self.lr_scheduler = build_configured_schedule(zero, self.args, raw, num_training_steps)
            else:
                self.lr_scheduler = build_schedule(self.args, raw, num_training_steps)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Names of the parameters that weight decay applies to."""
        return decay_parameter_names(model)

    def _get_learning_rate(self) -> float:
        return current_learning_rate(self.lr_scheduler, self.optimizer)


class StepHooks(_Attributes):
    """Forward, loss and backward of a micro-batch."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Forward and backward of one micro-batch.

        Args:
            model: The wrapped model.
            inputs: The batch.
            num_items_in_batch: Target items of the step over all ranks [items].

        Returns:
            The micro-batch's detached share of the step's loss, a scalar.
        """
        model.train()
        if callable(getattr(self.optimizer, "train", None)):
            self.optimizer.train()
        inputs = self._prepare_inputs(inputs)
        scaling = self._loss_scaling
        count = scaling.count_for_override(num_items_in_batch)
        with self.compute_loss_context_manager():
            if scaling.takes_count:
                loss = self.compute_loss(model, inputs, num_items_in_batch=count)
            else:
                loss = self.compute_loss(model, inputs)
        del inputs
        if (
            self.args.torch_empty_cache_steps is not None
            and self.state.global_step % self.args.torch_empty_cache_steps == 0
            and torch.cuda.is_available()
        ):
            torch.cuda.empty_cache()
        loss = scaling.scale_for_step(loss, count, self.current_gradient_accumulation_steps)
        if getattr(self.optimizer, "measures", False):
            self.optimizer.backward(partial(self._backend.backward, loss), max_norm=self.args.max_grad_norm)
        else:
            self._backend.backward(loss)
        return loss.detach()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss of a micro-batch.

        An override may leave ``num_items_in_batch`` out of its signature, or ignore it, and return the mean of its
        batch; or divide the sum of its losses by it. Both are scaled right for any number of micro-batches and ranks.

        Args:
            model: The wrapped model.
            inputs: The batch, on the rank's device.
            return_outputs: Return ``(loss, outputs)``.
            num_items_in_batch: Target items of the step over all ranks [items].
        """
        takes_labels = self.label_smoother is not None or self.compute_loss_func is not None
        labels = inputs.pop("labels") if takes_labels and "labels" in inputs else None
        if self.model_accepts_loss_kwargs and num_items_in_batch is not None:
            inputs = {**inputs, "num_items_in_batch": num_items_in_batch}
        outputs = model(**inputs)
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        elif labels is not None:
            loss = self._smoothed_loss(outputs, labels, num_items_in_batch)
        else:
            loss = loss_of(outputs, inputs)
        if model.training and self._loss_scaling is not None:
            count = num_items_in_batch if torch.is_tensor(num_items_in_batch) else None
            loss = self._loss_scaling.scale_base_loss(loss, count)
        return (loss, outputs) if return_outputs else loss

    def _smoothed_loss(self, outputs: Any, labels: torch.Tensor, num_items_in_batch: Any) -> torch.Tensor:
        # The smoother shifts labels by itself, where the model's own loss would.
        return self.label_smoother(
            outputs, labels, shift_labels=self._smoother_shifts, num_items_in_batch=num_items_in_batch
        )

    def compute_loss_context_manager(self) -> contextlib.AbstractContextManager[Any]:
        """Around ``compute_loss``. Autocast lies in the wrapped model already."""
        return self.autocast_smart_context_manager()

    def autocast_smart_context_manager(
        self, cache_enabled: bool | None = True
    ) -> contextlib.AbstractContextManager[Any]:
        """A further context for the forward pass; none by default."""
        return contextlib.nullcontext()

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Floating-point operations of a forward and backward pass of a batch."""
        if self._flop_counter is None:
            self._flop_counter = FlopCounter()
        return self._flop_counter(self.model, inputs)


def loss_of(outputs: Any, inputs: dict[str, Any]) -> torch.Tensor:
    """The loss in a model's outputs."""
    if isinstance(outputs, Mapping):
        if "loss" not in outputs:
            raise ConfigurationError(
                f"The model returned {list(outputs)} and no loss from the inputs {list(inputs)}. Give it labels under "
                "the name that its forward takes, or override compute_loss."
            )
        return outputs["loss"]
    return outputs[0]


class EvaluationHooks(_Attributes):
    """Prediction of a batch, and the loop over a loader."""

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """All ranks: predict on a whole loader and compute metrics."""
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        loop = PredictionLoop(
            self,
            backend=self._backend,
            runtime=self._runtime,
            dataloader=dataloader,
            description=description,
            prediction_loss_only=bool(loss_only),
            ignore_keys=ignore_keys,
        )
        with contextlib.closing(loop):
            loop.run()
            return loop.result(metric_key_prefix)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[torch.Tensor | None, Any, Any]:
        """Predict on one batch.

        Returns:
            Loss, logits and labels of this rank's batch, each None where there is none.
        """
        has_labels = bool(self.label_names) and all(inputs.get(name) is not None for name in self.label_names)
        return_loss = inputs.get("return_loss")
        wants_loss = self.can_return_loss if return_loss is None else return_loss
        has_loss = has_labels or (not self.label_names and bool(wants_loss))
        inputs = self._prepare_inputs(inputs)
        if ignore_keys is None:
            config = getattr(self.model, "config", None)
            ignore_keys = (
                getattr(config, "keys_to_ignore_at_inference", ["past_key_values"]) if config else []
            )
        labels = None
        if has_loss:
            labels = nested_detach(tuple(inputs.get(name) for name in self.label_names))
            labels = labels[0] if len(labels) == 1 else labels
        with torch.no_grad():
            loss, outputs = self._predict_batch(model, inputs, has_loss)
        if prediction_loss_only:
            return loss, None, None
        return loss, select_logits(outputs, ignore_keys or [], has_loss), labels

    def _prediction_padding(self) -> int:
        """What fills up predictions that are shorter than those of other batches or ranks."""
        return -100

    def _predict_batch(
        self, model: nn.Module, inputs: Any, has_loss: bool
    ) -> tuple[torch.Tensor | None, Any]:
        with self.compute_loss_context_manager():
            if not has_loss:
                return None, model(**inputs)
            if self._compute_loss_takes_count:
                count = self._eval_item_count(inputs)
                loss, outputs = self.compute_loss(
                    model, inputs, return_outputs=True, num_items_in_batch=count
                )
            else:
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
        return loss.detach().mean(), outputs

    def _eval_item_count(self, inputs: Any) -> torch.Tensor | None:
        # The count of this batch alone: its loss is a mean, whatever divides by it.
        if "labels" not in inputs or not (
            self.model_accepts_loss_kwargs or self.compute_loss_func is not None
        ):
            return None
        count = count_items([inputs], loss_shifts_labels=self._loss_shifts_labels)
        return None if count is None else count.to(self.args.device)

    def _evaluation_model(self) -> nn.Module:
        """The module that predicts: the one with the precision of training, without the reduction of gradients."""
        model = self._backend.evaluation_model(self.model, in_training=self.is_in_train)
        if not self.is_in_train and (self.args.bf16_full_eval or self.args.fp16_full_eval):
            model = model.to(dtype=torch.bfloat16 if self.args.bf16_full_eval else torch.float16)
        return model

    def _evaluate(
        self, trial: Any, ignore_keys_for_eval: Any, skip_scheduler: bool = False
    ) -> dict[str, float]:
        metrics = self.evaluate(ignore_keys=ignore_keys_for_eval)
        if waits_for_metric(self.lr_scheduler) and not skip_scheduler:
            self.lr_scheduler.step(metric_of(self.args, metrics))
        return metrics


def select_logits(outputs: Any, ignore_keys: list[str], has_loss: bool) -> Any:
    """What a model returned besides its loss, detached."""
    if isinstance(outputs, Mapping):
        ignored = {*ignore_keys, "loss"} if has_loss else set(ignore_keys)
        logits: Any = tuple(value for key, value in outputs.items() if key not in ignored)
    elif isinstance(outputs, tuple | list):
        logits = tuple(outputs[1:]) if has_loss else tuple(outputs)
    else:
        return nested_detach(outputs)
    logits = nested_detach(logits)
    return logits[0] if len(logits) == 1 else logits


def metric_of(args: TrainingArguments, metrics: dict[str, float]) -> float:
    """The metric that decides about the best model and about schedules that wait for one.

    Raises:
        ConfigurationError: If the evaluation did not give it.
    """
    assert args.metric_for_best_model is not None
    name = args.metric_for_best_model
    name = name if name.startswith("eval_") else f"eval_{name}"
    if name not in metrics:
        raise ConfigurationError(
            f"metric_for_best_model={args.metric_for_best_model!r} asks for {name!r}, which the evaluation did not "
            f"give; it gave {sorted(metrics)}. Return it from compute_metrics, or name one of these."
        )
    return metrics[name]


class SavingHooks(_Attributes):
    """Logs, checkpoints and the best model."""

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Record logs in the state, tell the callbacks and the driver."""
        if self.state.epoch is not None:
            logs["epoch"] = self.state.epoch
        if self.args.include_num_input_tokens_seen != "no":
            logs["num_input_tokens_seen"] = self.state.num_input_tokens_seen
            if start_time is not None and self._run is not None:
                tokens = self.state.num_input_tokens_seen - self._run.first_tokens
                logs.update(speed_metrics("train", start_time, num_tokens=tokens))
        self.state.log_history.append({**logs, "step": self.state.global_step})
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)
        if self._runtime is not None and self._runtime.rank == 0:
            self._runtime.emit(
                Logged(step=self.state.global_step, max_steps=self.state.max_steps, logs=dict(logs))
            )

    def store_flos(self) -> None:
        """All ranks: add what the ranks computed since the last time to the state."""
        flos = torch.tensor(float(self.current_flos), dtype=torch.float64, device=self.args.device)
        self.state.total_flos += self._backend.sum_over_ranks(flos).item()
        self.current_flos = 0.0

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        is_in_shards = state_dict is None and is_sharded(self.model)  # then all ranks take part
        if not self.args.should_save and not is_in_shards:
            return
        target = Path(output_dir if output_dir is not None else str(self.args.output_dir))
        processor = self.processing_class
        if processor is None:
            processor = getattr(self.data_collator, "tokenizer", None)
        if is_in_shards:
            save_sharded_model(self.model, target, processing_class=processor)
        else:
            save_model_weights(self.model, target, processing_class=processor, state_dict=state_dict)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        assert self._run is not None
        save_checkpoint(self._run)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """All ranks: hand a committed checkpoint to the upload in the background, if the strategy has one."""
        if self._runtime.rank == 0 and uploads_saves(self.args):
            upload_checkpoint(self, Path(checkpoint_folder))

    def _finish_current_push(self) -> None:
        """Wait for the uploads of this process."""
        if self._hub is not None:
            self._hub.uploads.wait()

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        if self.args.metric_for_best_model is None:
            return False
        value = metric_of(self.args, metrics)
        best = self.state.best_metric
        is_better = np.greater if self.args.greater_is_better else np.less
        if best is not None and not is_better(value, best):
            return False
        if best is None and np.isnan(value):
            return False
        self.state.best_metric = value
        if self.args.save_strategy != "no":
            self.state.best_global_step = self.state.global_step
        return True

    def _task_state(self) -> dict[str, Any]:
        """All ranks: what a checkpoint keeps of a trainer of one task; plain JSON values."""
        return {}

    def _restore_task_state(self, state: dict[str, Any]) -> None:
        """All ranks: begin a run with what a checkpoint kept, or with nothing."""

    def _load_best_model(self) -> None:
        load_model_weights(self.model, Path(self.state.best_model_checkpoint))  # pyright: ignore[reportArgumentType]


class TrainerHooks(DataHooks, OptimizerHooks, StepHooks, EvaluationHooks, SavingHooks):
    """Everything that a subclass of the Trainer may override."""
