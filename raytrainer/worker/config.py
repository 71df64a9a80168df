"""What Ray Train hands to the function that it calls on every worker."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from raytrainer.runtimes.ray_calls import Ref
from raytrainer.wire.preparations import Preparations

if TYPE_CHECKING:
    from raytrainer.wire.pickling import Shipped


@dataclass(frozen=True, kw_only=True)
class WorkerConfig:
    """What a worker needs before it can read the trainer."""

    control: Any
    """Handle of the control actor."""
    trainer: list[Ref[Shipped]]
    """One reference to the trainer in transport form; in a list, so that Ray passes the reference on."""
    open_session: str
    """``module:function`` that sets the trainer up: ``(trainer, runtime) -> session``."""
    output_dir: str | None
    num_threads: int | None
    """CPU threads of torch, unless OMP_NUM_THREADS says otherwise."""
    use_gpu: bool
    backend: str
    """Backend of ``torch.distributed``."""
    timeout_s: float
    """Limit of a collective [s]."""
    directory: str | None
    """Working directory of the driver, when workers run on its machine."""
    preparations: Preparations = field(default_factory=Preparations)
    """What is called before the trainer is unpacked, and when it is set up."""
