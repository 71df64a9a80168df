"""DeepSpeed's ZeRO: optimizer state (stage 1), gradients (2) and parameters (3) are partitioned over the ranks.

DeepSpeed's engine owns the optimizer: it reduces gradients in its backward pass, and clips and updates in one step.
The loop still decides when a step ends; ``EngineOptimizer`` stands in for the optimizer. Checkpoints are raytrainer's
own, because those of the engine are pickles that only the same number of ranks can load.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.optim import Optimizer

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.backends.zero.flat_runs import (
    flats_of,
    groups_of,
    mark_owner,
    shard_size,
    whole_models,
)
from raytrainer.backends.zero.state import ZeroState
from raytrainer.checkpoint.model_files import load_model_weights, save_model_weights, save_sharded_model
from raytrainer.checkpoint.optimizer_files import load_saved_optimizer, save_optimizer_shards
from raytrainer.checkpoint.optimizer_state import OptimizerState, optimizer_state
from raytrainer.checkpoint.sharded_weights import gather_state_dict
from raytrainer.dialects.deepspeed import DeepSpeedOptions
from raytrainer.dialects.deepspeed_auto import check_sizes, engine_config
from raytrainer.errors import ConfigurationError, MissingPackageError
from raytrainer.layout.ranks import current_rank, join_group, sum_over_group
from raytrainer.layout.tensor_layout import has_distributed_parameters
from raytrainer.telemetry.events import EngagedRow
from raytrainer.user_types import ProcessingClass

_NO_CONTEXT: AbstractContextManager[None] = nullcontext()


class EngineOptimizer:
    """What the loop steps under DeepSpeed: one step is the engine's clipping and update."""

    def __init__(self, engine: Any, optimizer: torch.optim.Optimizer) -> None:
        self._engine = engine
        self.optimizer = optimizer
        """The one that was created; its parameter groups hold the learning rate."""
        self.zero = engine.optimizer
        """DeepSpeed's, which steps the first one on this rank's runs."""

    def step(self, closure: Callable[[], float] | None = None) -> None:
        """All ranks: clip, update, and bring the new weights to where they are used."""
        self._engine.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Nothing to do: the engine frees gradients as it uses them."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.optimizer, name)


class LossScale:
    """DeepSpeed's loss scale for fp16, in the form that a checkpoint stores."""

    def __init__(self, scaler: Any) -> None:
        self._attributes: dict[str, Any] = vars(scaler)

    def state_dict(self) -> dict[str, Any]:
        """The scale, and when it changed."""
        return {key: value for key, value in self._attributes.items() if isinstance(value, int | float)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue with a saved scale."""
        self._attributes.update({key: state_dict[key] for key in self.state_dict() if key in state_dict})


class ZeroBackend:
    """The backend of a run with ``deepspeed``."""

    def __init__(self, accelerator: Accelerator, options: DeepSpeedOptions, args: TrainingArguments) -> None:
        self.accelerator = accelerator
        self.name = f"zero{options.stage}"
        self.rounds_weights = args.mixed_precision != "no"
        self._options = options
        self._args = args
        self._engine: Any = None
        self._optimizer: EngineOptimizer | None = None
        self._reduces = True
        join_group(accelerator.device)
        self._deepspeed = import_deepspeed(accelerator.device)
        # All ranks: DeepSpeed adopts the group that exists. Until then it believes that it is the only rank.
        self._deepspeed.init_distributed(
            dist_backend=dist.get_backend(), auto_mpi_discovery=False, verbose=False, dist_init_required=False
        )
        # from_pretrained and generate() of transformers check whether it exists: models that are built on the ranks
        # are then partitioned as they are built (zero.Init).
        self._for_transformers = _tell_transformers(options, args) if options.stage == 3 else None

    # ---- wrapping -----------------------------------------------------------------------------------------------

    def wrap(self, model: nn.Module, *, reduces: bool = True) -> nn.Module:
        self._reduces = reduces
        return model

    def wrap_optimizer(self, model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        model = self.unwrap(model)
        raw = getattr(optimizer, "optimizer", optimizer)
        if not self._reduces:
            # The optimizer works without DeepSpeed's; hooks on the module gather and free the weights.
            if self._engine is None or self._engine.module is not model:
                self._open(model, None)
            return model, raw
        if (
            self._optimizer is None
            or self._engine.module is not model
            or self._optimizer.optimizer is not raw
        ):
            self._open(model, raw)
        return self._engine, self._optimizer

    def unwrap(self, model: nn.Module) -> nn.Module:
        return self._engine.module if self._engine is not None and model is self._engine else model

    def evaluation_model(self, model: nn.Module, *, in_training: bool) -> nn.Module:
        if self._engine is None or self._engine.module is not model:
            self._open(model, None)
        # The module itself gathers what it needs; the engine around it would report that it is training.
        return model

    def _open(self, model: nn.Module, optimizer: torch.optim.Optimizer | None) -> None:
        """All ranks: build the engine; without an optimizer it only predicts."""
        if self._engine is not None:
            self._engine.destroy()
        config = engine_config(self._options, self._args, world_size=dist.get_world_size(), model=model)
        if optimizer is None and self._options.stage < 3:
            # Nothing is partitioned that prediction needs, and DeepSpeed builds no such engine without an optimizer.
            config.pop("zero_optimization")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._engine, *_ = self._deepspeed.initialize(
                model=model, optimizer=optimizer, config=config, dist_init_required=False
            )
        self._optimizer = None
        if optimizer is not None:
            self._optimizer = EngineOptimizer(self._engine, optimizer)
            zero = self._engine.optimizer
            if self._args.mixed_precision == "fp16":
                self.accelerator.scaler = LossScale(zero.loss_scaler)
            mark_owner(zero)

    # ---- a step -------------------------------------------------------------------------------------------------

    def micro_batch(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        if self._reduces:
            self._engine.set_gradient_accumulation_boundary(is_last)
        return _NO_CONTEXT

    def backward(self, loss: torch.Tensor, *, retain_graph: bool = False) -> None:
        if self._reduces:
            # The loop has scaled the loss by the number of micro-batches already.
            self._engine.backward(loss, retain_graph=retain_graph, scale_wrt_gas=False)
        else:
            loss.backward(retain_graph=retain_graph)

    def clip_grad_norm(self, model: nn.Module, max_norm: float | None) -> torch.Tensor:
        # The engine clips when it steps, and knows the norm then.
        self._engine.optimizer.clip_grad = 0.0 if max_norm is None else max_norm
        return torch.tensor(float("nan"))

    def norm_of_step(self, found: torch.Tensor) -> torch.Tensor:
        if not self._reduces:
            return found
        return torch.as_tensor(self._engine.get_global_grad_norm(), dtype=torch.float32)

    def follow_trainable(self, model: nn.Module) -> nn.Module:
        raise ConfigurationError(
            "Parameters were frozen or unfrozen during training, and DeepSpeed decides which ones it trains when its "
            "engine is made. Freeze them before train(). To change that during training, use fsdp, or train once with "
            "each set of parameters, each time with a new Trainer on the weights of the one before."
        )

    def zero_grad(self, model: nn.Module) -> None:
        if not self._reduces:
            # All ranks. The engine frees gradients itself. When it does not step, weights that no later module has
            # freed are still gathered.
            self._engine.optimizer.partition_all_parameters()

    def step_was_skipped(self) -> bool:
        return bool(getattr(self._engine.optimizer, "overflow", False))

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        return sum_over_group(value)

    # ---- state --------------------------------------------------------------------------------------------------

    def save_model(
        self, model: nn.Module, directory: Path, *, processing_class: ProcessingClass | None = None
    ) -> None:
        if has_distributed_parameters(model):
            save_sharded_model(model, directory, processing_class=processing_class)
        elif current_rank() == 0:  # stages 1 and 2 without training
            save_model_weights(model, directory, processing_class=processing_class)

    def load_model(self, model: nn.Module, directory: Path) -> None:
        with whole_models():
            load_model_weights(model, directory)

    def full_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        return gather_state_dict(model)

    def save_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> list[Path]:
        return save_optimizer_shards(directory, self._state_of(model, optimizer))

    def load_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> None:
        state = self._state_of(model, optimizer)
        load_saved_optimizer(
            directory,
            state=state,
            full=state if isinstance(state, ZeroState) else optimizer,
            name=type(getattr(optimizer, "optimizer", optimizer)).__name__,
            device=self.accelerator.device,
        )

    def optimizer_groups(self, optimizer: Optimizer) -> list[list[nn.Parameter]]:
        if isinstance(optimizer, EngineOptimizer):
            return groups_of(optimizer.zero)  # what it was given, and not the runs that this rank steps
        return [group["params"] for group in optimizer.param_groups]

    def _state_of(self, model: nn.Module, optimizer: Optimizer) -> OptimizerState:
        if isinstance(optimizer, EngineOptimizer):
            return ZeroState(model, optimizer.zero)
        return optimizer_state(model, optimizer)

    # ---- proof --------------------------------------------------------------------------------------------------

    def engaged(self, model: nn.Module, requested_workers: int) -> list[EngagedRow]:
        engine: Any = model if self._reduces else self._engine
        is_engine = type(engine).__name__ == "DeepSpeedEngine" and self.unwrap(model) is engine.module
        stage = engine.zero_optimization_stage() if is_engine else 0
        zero = engine.optimizer if is_engine else None
        compute, reduce = engine.get_data_types() if is_engine else (None, None)
        precision = self._args.mixed_precision
        wanted_dtype = {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}[precision]
        what, own, total = shard_size(zero, stage)
        ranks = dist.get_world_size()
        return [
            EngagedRow(
                what="workers",
                requested=str(requested_workers),
                engaged=f"{ranks} x {self.accelerator.device.type}",
                ok=ranks == requested_workers,
            ),
            EngagedRow(
                what="backend",
                requested=f"deepspeed, ZeRO stage {self._options.stage}",
                engaged=f"{type(engine).__name__} ({dist.get_backend()}), {type(zero).__name__}, stage {stage}",
                ok=is_engine and stage == self._options.stage and zero is not None,
            ),
            EngagedRow(
                what="shard",
                requested=f"1/{ranks} a rank",
                engaged=f"{what} of {own / 1e6:.2f} of {total / 1e6:.2f} M parameters",
                ok=ranks == 1 or own < total,
            ),
            EngagedRow(
                what="precision",
                requested={"no": "fp32"}.get(precision, precision),
                engaged=f"{_short(compute)}, reduced in {_short(reduce)}, stepped in {_short(flats_of(zero)[0].dtype)}"
                if self._reduces
                else f"{_short(compute)}, reduced and stepped by the optimizer",
                ok=_short(compute) == wanted_dtype,
            ),
            *self._offload_rows(zero),
        ]

    def _offload_rows(self, zero: Any) -> list[EngagedRow]:
        rows: list[EngagedRow] = []
        for what, attribute in (
            ("optimizer", ("cpu_offload", "offload_optimizer")),
            ("param", ("offload_param",)),
        ):
            if self._options.offloads(what):
                is_on = any(bool(getattr(zero, name, False)) for name in attribute)
                places = {flat.device.type for flat in flats_of(zero)}
                rows.append(
                    EngagedRow(
                        what=f"offload {what}",
                        requested="cpu",
                        engaged=f"{', '.join(sorted(places))}" if is_on else "off",
                        ok=is_on and places == {"cpu"},
                    )
                )
        return rows


def import_deepspeed(device: torch.device) -> Any:
    """DeepSpeed, for a device.

    Raises:
        ConfigurationError: If it is not installed.
    """
    check_installed()
    # DeepSpeed reads it repeatedly, even in a process that no launcher started.
    os.environ.setdefault("LOCAL_RANK", "0")
    if device.type == "cpu":
        # It chooses an accelerator when it is imported, and would look for a GPU.
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        deepspeed: Any = importlib.import_module("deepspeed")
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # An all-reduce for inference, which nothing here uses; compiling it takes a compiler and a minute.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    # The warning about renamed collectives is for DeepSpeed, not for users.
    warnings.filterwarnings(
        "ignore", message=r".*torch\.distributed\.\w+. is deprecated", category=FutureWarning
    )
    return deepspeed


def forget_earlier(args: TrainingArguments) -> None:
    """Undo what an earlier trainer of this process told transformers: to partition models as they are built."""
    integration = sys.modules.get("transformers.integrations.deepspeed")
    if integration is not None and args.zero is None:
        integration.unset_hf_deepspeed_config()


def check_model(options: DeepSpeedOptions, model: object) -> None:
    """Check, on a driver too, that DeepSpeed is installed and that "auto" can be filled in for a model.

    Raises:
        ConfigurationError: If it is not, or cannot.
    """
    check_installed()
    if isinstance(model, nn.Module):
        check_sizes(options, model)


def check_installed() -> None:
    """Check, on a driver too, that DeepSpeed is installed.

    Raises:
        ConfigurationError: If it is not installed.
    """
    if importlib.util.find_spec("deepspeed") is None:
        raise MissingPackageError(
            "deepspeed= needs the package deepspeed, which is not installed. Run: pip install 'raytrainer[deepspeed]'"
        )


def _tell_transformers(options: DeepSpeedOptions, args: TrainingArguments) -> Any:
    from transformers.integrations.deepspeed import HfDeepSpeedConfig

    # The model's sizes are not known yet, and nothing that is made now depends on them.
    plain = DeepSpeedOptions(config=_without_auto(options.config))
    return HfDeepSpeedConfig(engine_config(plain, args, world_size=dist.get_world_size(), model=None))


def _without_auto(config: dict[str, Any]) -> dict[str, Any]:
    return {
        key: _without_auto(cast("dict[str, Any]", value)) if isinstance(value, dict) else value
        for key, value in config.items()
        if value != "auto"
    }


def _short(dtype: torch.dtype | None) -> str:
    return str(dtype).removeprefix("torch.")
