"""The interface between the loop and a backend.

The loop knows no backend by name: whatever differs between backends is a method here, including how weights and
optimizer state are saved, loaded and gathered. A new backend is one file with a class that has these methods, and one
line in ``choose``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn
from torch.optim import Optimizer

from raytrainer.telemetry.events import EngagedRow
from raytrainer.user_types import ProcessingClass

if TYPE_CHECKING:
    from accelerate import Accelerator


class Backend(Protocol):
    """Wraps a model and an optimizer for the ranks of a run."""

    name: str
    """"single", "ddp", ...: the word that catalogue entries and tables use."""
    accelerator: Accelerator
    rounds_weights: bool
    """Wrapping the optimizer makes master weights from rounded weights, so exact ones must be loaded after it."""

    def wrap(self, model: nn.Module, *, reduces: bool = True) -> nn.Module:
        """All ranks: return the module whose forward and backward train on all ranks.

        Args:
            model: The user's module.
            reduces: Gradients are averaged over ranks; otherwise the optimizer does it.
        """
        ...

    def wrap_optimizer(self, model: nn.Module, optimizer: Any) -> tuple[nn.Module, Any]:
        """All ranks: join a wrapped model and its optimizer; return the model that trains and what the loop steps.

        Called again with the same pair, it returns what it returned before.
        """
        ...

    def unwrap(self, model: nn.Module) -> nn.Module:
        """The user's module inside a wrapped one."""
        ...

    def micro_batch(self, model: nn.Module, *, is_last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one micro-batch; ranks reduce gradients in the last one of a step."""
        ...

    def backward(self, loss: torch.Tensor, *, retain_graph: bool = False) -> None:
        """Add the gradients of a scaled loss, a scalar; ``retain_graph`` allows doing so once more."""
        ...

    def clip_grad_norm(self, model: nn.Module, max_norm: float | None) -> torch.Tensor:
        """All ranks: clip gradients to a global norm (None: do not clip); return the norm before it, a scalar."""
        ...

    def norm_of_step(self, found: torch.Tensor) -> torch.Tensor:
        """After the optimizer's step: the norm from ``clip_grad_norm``, or from the step itself; a scalar."""
        ...

    def follow_trainable(self, model: nn.Module) -> nn.Module:
        """All ranks, between steps: parameters were frozen or unfrozen; return the wrapped model that trains now.

        Raises:
            ConfigurationError: If the backend cannot follow.
        """
        ...

    def zero_grad(self, model: nn.Module) -> None:
        """Free the gradients."""
        ...

    def step_was_skipped(self) -> bool:
        """Whether the last optimizer step was skipped because of an overflow in fp16."""
        ...

    def sum_over_ranks(self, value: torch.Tensor) -> torch.Tensor:
        """All ranks: return the sum of a tensor ``[...]`` over ranks, in the same shape."""
        ...

    def engaged(self, model: nn.Module, requested_workers: int) -> list[EngagedRow]:
        """What is really on, read from the wrapped objects and not from the arguments."""
        ...

    def evaluation_model(self, model: nn.Module, *, in_training: bool) -> nn.Module:
        """The module to predict with: the precision of training, no reduction of gradients."""
        ...

    # ---- state --------------------------------------------------------------------------------------------------

    def save_model(
        self, model: nn.Module, directory: Path, *, processing_class: ProcessingClass | None = None
    ) -> None:
        """All ranks: write the weights, in the files of ``from_pretrained``.

        Args:
            model: The user's module.
            directory: On storage that all ranks share; made if it does not exist.
            processing_class: Tokenizer or processor that is saved beside the weights.

        Raises:
            CheckpointError: If the model holds something that cannot be saved.
        """
        ...

    def load_model(self, model: nn.Module, directory: Path) -> None:
        """All ranks: read weights that any backend wrote into the user's module, wrapped or not.

        Raises:
            CheckpointError: If there are no weights, they are damaged, or they are those of another model.
        """
        ...

    def full_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """All ranks: return full weights and buffers ``[full shape]`` on the CPU of rank 0, by name; {} elsewhere."""
        ...

    def save_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> list[Path]:
        """All ranks: write the state of an optimizer; return the files that this rank wrote.

        Args:
            model: The user's module.
            optimizer: What the loop steps.
            directory: Of the checkpoint; it exists.

        Raises:
            CheckpointError: If the state holds objects that could not be read back safely.
        """
        ...

    def load_optimizer(self, model: nn.Module, optimizer: Optimizer, directory: Path) -> None:
        """All ranks: restore the state that any backend wrote.

        Args:
            model: The user's module.
            optimizer: What the loop steps, on the same parameters as when it was saved.
            directory: Of the checkpoint.

        Raises:
            CheckpointError: If the state is damaged, or that of another optimizer.
        """
        ...

    def optimizer_groups(self, optimizer: Optimizer) -> list[list[nn.Parameter]]:
        """The model's parameters, by the groups in which the optimizer was given them."""
        ...
