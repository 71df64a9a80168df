"""One process, or plain data parallelism (DDP) over several, through Accelerate.

Every rank holds the full model; gradients are averaged over ranks in the backward pass of a step's last
micro-batch.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from raytrainer.backends.clipping import Clipping
from raytrainer.backends.precision import autocast_dtype
from raytrainer.checkpoint.model_files import load_model_weights, save_model_weights
from raytrainer.checkpoint.optimizer_files import load_saved_optimizer, save_full_optimizer
from raytrainer.checkpoint.optimizer_state import optimizer_state
from raytrainer.layout.ranks import current_rank, num_ranks, sum_over_group
from raytrainer.telemetry.events import EngagedRow
from raytrainer.user_types import ProcessingClass

_NO_WRAP: AbstractContextManager[None] = nullcontext()


class DataParallelBackend:
    """The backend of a run without sharding."""

    rounds_weights = False

    def __init__(self, accelerator: Accelerator, *, finds_unused: bool | None = None) -> None:
        """Store what wraps models.

        Args:
            accelerator: Wraps models in DDP, if there are several processes.
            finds_unused: ``ddp_find_unused_parameters``; None decides by the model.
        """
        self.accelerator = accelerator
        self._finds_unused = finds_unused
        self.name = "ddp" if accelerator.num_processes > 1 else "single"
        self._clipping = Clipping([])
        self._optimizer: Any = None
        self._prepared: list[nn.Module] = []
        self._reduces = True

    def wrap(self, model: nn.Module, *, reduces: bool = True) -> nn.Module:
        self._reduces = reduces
        wrapped = self._prepare(model, evaluation_mode=not reduces)
        self._prepared.append(self.unwrap(wrapped))
        self._clipping = Clipping([one for one in wrapped.parameters() if one.requires_grad])
        return wrapped

    def wrap_optimizer(self, model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        optimizer = getattr(optimizer, "optimizer", optimizer)
        # Accelerate's wrapper is needed for the loss scaler of fp16 only; it costs time in every step.
        if self.accelerator.scaler is not None:
            optimizer = self.accelerator.prepare_optimizer(optimizer)
        self._optimizer = optimizer
        return model, optimizer

    def evaluation_model(self, model: nn.Module, *, in_training: bool) -> nn.Module:
        # Accelerate puts autocast into the forward of the user's own module, so that module predicts in the
        # precision of training. Without training before, it is not prepared yet.
        if not in_training and model not in self._prepared:
            model = self._prepare(model, evaluation_mode=True)
            self._prepared.append(model)
        return model

    def _prepare(self, model: nn.Module, *, evaluation_mode: bool) -> nn.Module:
        accelerator: Any = self.accelerator
        if accelerator.ddp_handler is not None:
            accelerator.ddp_handler.find_unused_parameters = self._looks_for_unused(model)
        return accelerator.prepare_model(model, evaluation_mode=evaluation_mode)

    def _looks_for_unused(self, model: nn.Module) -> bool:
        if self._finds_unused is not None:
            return self._finds_unused
        # Looking for unused parameters and recomputing activations exclude each other in DDP. Modules say by this
        # attribute that they recompute, in a transformers model by itself as well as under an adapter.
        return not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())

    def unwrap(self, model: nn.Module) -> nn.Module:
        # accelerate's unwrap_model imports DeepSpeed where it is installed.
        inner: nn.Module = getattr(model, "_orig_mod", model)  # under torch.compile
        while isinstance(inner, DistributedDataParallel):
            inner = cast("nn.Module", inner.module)
        return inner

    def micro_batch(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        # Users' hooks may read accelerator.sync_gradients, so it is kept true to what happens.
        self.accelerator.gradient_state._set_sync_gradients(is_last)
        if is_last or not isinstance(model, DistributedDataParallel):
            return _NO_WRAP
        return model.no_sync()

    def backward(self, loss: torch.Tensor, *, retain_graph: bool = False) -> None:
        if self.accelerator.scaler is not None:
            self.accelerator.backward(loss, retain_graph=retain_graph)
        else:
            loss.backward(retain_graph=retain_graph)

    def clip_grad_norm(self, model: nn.Module, max_norm: float | None) -> torch.Tensor:
        if hasattr(self._optimizer, "norm_of_step") and not self._reduces:
            return torch.tensor(float("nan"))  # the optimizer reduces, and knows the norm then
        if self.accelerator.scaler is not None:
            self.accelerator.unscale_gradients()
        return self._clipping.clip(float("inf") if max_norm is None else max_norm)

    def norm_of_step(self, found: torch.Tensor) -> torch.Tensor:
        norm_of_step = None if self._reduces else getattr(self._optimizer, "norm_of_step", None)
        return found if norm_of_step is None else norm_of_step()

    def follow_trainable(self, model: nn.Module) -> nn.Module:
        if isinstance(model, DistributedDataParallel):
            model = self._wrap_again(model)
        self._clipping = Clipping([one for one in model.parameters() if one.requires_grad])
        return model

    def _wrap_again(self, wrapped: DistributedDataParallel) -> DistributedDataParallel:
        """All ranks: DDP reduces the parameters that could be trained when it was made, so it is made anew."""
        handler = self.accelerator.ddp_handler
        options: dict[str, Any] = {} if handler is None else handler.to_kwargs()
        if wrapped.device_ids is not None:
            options |= {"device_ids": wrapped.device_ids, "output_device": wrapped.output_device}
        module = cast("nn.Module", wrapped.module)
        # The reducer takes its hooks off the parameters when the last reference to it is gone.
        for name in ("reducer", "logger"):
            vars(wrapped).pop(name)
        again = DistributedDataParallel(module, **options)
        if handler is not None:
            handler.register_comm_hook(again)
        known: list[Any] = self.accelerator._models
        known[:] = [again if one is wrapped else one for one in known]
        return again

    def zero_grad(self, model: nn.Module) -> None:
        for parameter in self._clipping.parameters:
            parameter.grad = None

    def step_was_skipped(self) -> bool:
        return bool(getattr(self._optimizer, "step_was_skipped", False))

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        if self.name == "single":
            return value
        return sum_over_group(value)

    # ---- state --------------------------------------------------------------------------------------------------

    def save_model(
        self, model: nn.Module, directory: Path, *, processing_class: ProcessingClass | None = None
    ) -> None:
        if current_rank() == 0:
            save_model_weights(model, directory, processing_class=processing_class)

    def load_model(self, model: nn.Module, directory: Path) -> None:
        load_model_weights(model, directory)

    def full_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        if current_rank() != 0:
            return {}
        state: dict[str, torch.Tensor] = model.state_dict()
        return {name: value.detach().cpu() for name, value in state.items()}

    def save_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> list[Path]:
        return save_full_optimizer(directory, optimizer)

    def load_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> None:
        load_saved_optimizer(
            directory,
            state=optimizer_state(model, optimizer),
            full=optimizer,
            name=type(getattr(optimizer, "optimizer", optimizer)).__name__,
            device=self.accelerator.device,
        )

    def optimizer_groups(self, optimizer: Optimizer) -> list[list[nn.Parameter]]:
        return [group["params"] for group in optimizer.param_groups]

    # ---- proof --------------------------------------------------------------------------------------------------

    def engaged(self, model: nn.Module, requested_workers: int) -> list[EngagedRow]:
        workers = num_ranks()
        is_ddp = isinstance(model, DistributedDataParallel)
        group = dist.get_backend() if dist.is_initialized() else ""
        wanted = "data parallel" if requested_workers > 1 else "one process"
        found = f"DistributedDataParallel ({group})" if is_ddp else type(model).__name__
        if not self._reduces and workers > 1:
            found = f"{type(model).__name__}, reduced by the optimizer ({group})"
        precision = self.accelerator.mixed_precision
        engaged_dtype = autocast_dtype(self.accelerator)
        return [
            EngagedRow(
                what="workers",
                requested=str(requested_workers),
                engaged=f"{workers} x {self.accelerator.device.type}",
                ok=workers == requested_workers,
            ),
            # A launcher's group may have one rank, which Accelerate wraps all the same.
            EngagedRow(
                what="backend",
                requested=wanted,
                engaged=found,
                ok=is_ddp == self._reduces or requested_workers == 1,
            ),
            EngagedRow(
                what="precision",
                requested={"no": "fp32"}.get(precision, precision),
                engaged=engaged_dtype,
                ok=engaged_dtype == {"no": "float32", "bf16": "bfloat16", "fp16": "float16"}.get(precision),
            ),
        ]
