"""What a trainer holds that belongs to one process, and that never travels to another.

A driver's trainer has workers, a trainer that is bound to a process has a session, a runtime and a backend. All of it
is in one object, which is made anew wherever the trainer arrives.

Types of higher rooms are imported for type checkers alone: nothing here calls them.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from raytrainer.errors import ConfigurationError

if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch import nn
    from transformers.utils import PushInProgress

    from raytrainer.backends.base import Backend
    from raytrainer.data.loader import KeptLoader
    from raytrainer.driver.traced_calls import CallTraces
    from raytrainer.driver.workers import Workers
    from raytrainer.hub.connection import HubConnection
    from raytrainer.loop.item_count import LossFunction
    from raytrainer.loop.loss_scaling import LossScaling
    from raytrainer.loop.run import TrainRun
    from raytrainer.loop.step import FlopCounter
    from raytrainer.loop.trainable import Trainable
    from raytrainer.runtimes.base import Runtime
    from raytrainer.telemetry.console import Renderer
    from raytrainer.worker.memory_metrics import MemoryTracker
    from raytrainer.worker.session import Session


@dataclass(kw_only=True, slots=True)
class ProcessState:
    """Everything on a trainer that belongs to one process."""

    workers: Workers | None = None
    """Driver: the Ray workers that run this trainer's tasks."""
    weights_are_on_workers: bool = False
    """Driver: the workers have trained, and the weights here are older than theirs."""
    weights_are_lost: bool = False
    """Driver: the workers had trained, and ended without leaving their weights; those here are from before."""
    trained_world_size: int | None = None
    """Ranks of the last ``train()``."""
    renderer: Renderer | None = None
    """Shows progress in the terminal of this process."""
    traces: CallTraces | None = None
    """Follows the calls in this process, if it shows them."""
    session: Session | None = None
    """Runs tasks on the trainer, once it is bound to this process."""
    runtime: Runtime | None = None
    backend: Backend | None = None
    accelerator: Accelerator | None = None
    accelerator_alias: Accelerator | None = None
    """The one from before the trainer was bound; users may hold it."""
    memory_tracker: MemoryTracker | None = None
    model_wrapped: nn.Module | None = None
    """The module that trains: the model, or the wrapper that a backend put around it."""
    loss_shifts_labels: bool = False
    """The model's loss compares each position with the next label, so the first label is never a target."""
    smoother_shifts_labels: bool = False
    """The label smoother does the same."""
    run: TrainRun | None = None
    """The ``train()`` call in progress."""
    flop_counter: FlopCounter | None = None
    loss_function: LossFunction | None = None
    """The ``compute_loss_func`` that was called last."""
    trainable: Trainable | None = None
    """The parameters of the model and the optimizer that trained last."""
    model_took_count: bool = False
    """The model was called with ``num_items_in_batch`` and did not reject it."""
    eval_loaders: dict[str, KeptLoader] = field(default_factory=dict[str, "KeptLoader"])
    """Evaluation loaders that keep their worker processes (``dataloader_persistent_workers``)."""
    predicts_stand_in: bool = False
    """The batch that is being predicted holds no sample of this rank's; its result does not count."""
    hub: HubConnection | None = None
    """Uploads to the Hub from this process."""
    own_push: PushInProgress | None = None
    """Uploads that an override of ``_push_from_checkpoint`` began by itself."""

    def call_of(self, method: str) -> contextlib.AbstractContextManager[None]:
        """The block is a call of a method in this process, or a part of one."""
        return contextlib.nullcontext() if self.traces is None else self.traces.call(method)

    @property
    def loss_scaling(self) -> LossScaling | None:
        """How losses are scaled in the ``train()`` call in progress."""
        return None if self.run is None else self.run.scaling

    def bound_runtime(self) -> Runtime:
        """Where this rank runs.

        Raises:
            ConfigurationError: If the trainer is not bound to this process.
        """
        if self.runtime is None:
            raise _not_bound()
        return self.runtime

    def bound_backend(self) -> Backend:
        """What spreads the model over the ranks.

        Raises:
            ConfigurationError: If the trainer is not bound to this process.
        """
        if self.backend is None:
            raise _not_bound()
        return self.backend


def _not_bound() -> ConfigurationError:
    return ConfigurationError(
        "This method needs the model on its device, and this trainer is not bound to a process yet: train(), "
        "evaluate() and predict() bind it, here with num_workers=0 and otherwise on the workers. Call one of them "
        "first, or call this method from a hook or a callback."
    )
