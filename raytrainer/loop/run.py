"""The record of one ``train()`` call in this process: what its parts share while it lasts."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import nn

from raytrainer.arguments.training_arguments import TrainingArguments
from raytrainer.backends.base import Backend
from raytrainer.loop.loss_meter import LossMeter
from raytrainer.loop.loss_scaling import LossScaling
from raytrainer.loop.micro_batch_sizes import MicroBatchSizes
from raytrainer.loop.neftune import EmbeddingNoise
from raytrainer.loop.plan import Cursor, TrainPlan
from raytrainer.loop.train_mode import TrainMode
from raytrainer.random_state import HostRandomState
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.throughput import SpeedMeter

if TYPE_CHECKING:
    from raytrainer.loop.count_ahead import CountAhead
    from raytrainer.loop.saves_beside import SavesBeside
    from raytrainer.loop.trainable import Trainable
    from raytrainer.trainer_protocol import TrainerProtocol


@dataclass(kw_only=True, slots=True)
class TrainRun:
    """Everything that one ``train()`` call needs, besides the public state on the trainer."""

    trainer: TrainerProtocol
    args: TrainingArguments
    runtime: Runtime
    backend: Backend
    plan: TrainPlan
    cursor: Cursor
    loader: Any
    model: nn.Module
    """The wrapped model; ``trainer.model`` is the user's own."""
    scaling: LossScaling
    meter: LossMeter
    speed: SpeedMeter
    micro_batch_size: int
    """Samples of a full micro-batch on this rank."""
    reduces_each: bool
    """Ranks reduce gradients after every micro-batch, rather than only after the last one of a step."""
    count_ahead: CountAhead = field(init=False)
    """The targets of the next step, where ranks know them already."""
    train_mode: TrainMode = field(default_factory=TrainMode)
    is_restart: bool = False
    """This attempt goes on with what an earlier attempt of the same ``train()`` call saved."""
    is_ended: bool = False
    """Early stopping ended the run that this one goes on with."""
    ignore_keys_for_eval: list[str] | None = None
    rng_checkpoint: str | None = None
    """Checkpoint whose random state is still to be restored, at the first fetch of data."""
    stream_position: dict[str, Any] | None = None
    """Where the checkpoint's stream of data stood; until the first epoch is opened."""
    pass_began: HostRandomState | None = None
    """The random state of this process when the epoch in progress began."""
    batches: Iterator[Any] | None = None
    """The micro-batches of the epoch in progress."""
    interrupted: bool = False
    """The driver asked to save and stop."""
    stopped: bool = False
    """The driver asked to stop without saving."""
    moves: bool = False
    """The driver, or SIGTERM to a worker, asked to save and go on in other workers."""
    continues: tuple[str, ...] = ()
    """The runs that this one goes on with; their checkpoints are its own (``checkpoint.ownership``)."""
    last_checkpoint: str | None = None
    """The newest checkpoint that this run committed or began from."""
    removed: dict[str, int] = field(default_factory=dict[str, int])
    """What was saved and is gone, and the step after which rank 0 saw that."""
    started_at: float = field(default_factory=time.time)
    """Wall time at which this attempt of the call began [s]."""
    called_at: float = field(default_factory=time.time)
    """Wall time at which the call began, in the first of its attempts [s]."""
    resumed_step: int = 0
    """Step at which this attempt began."""
    saved_step: int = 0
    """Step of the newest state that is in storage or can be made again: the last save, or the start."""
    saves_beside: SavesBeside | None = None
    """What is saved beside training, if the arguments ask for it."""
    last_emit: float = 0.0
    """Monotonic time of the last progress event [s]."""
    rank_speeds: list[float] = field(default_factory=list[float])
    """Throughput of each rank at the last log [samples/s]."""
    learning_rate: float | None = None
    """Learning rate that the last optimizer step used."""
    grad_norm: Any = None
    updates_in_backward: bool = False
    """The optimizer steps while gradients are computed."""
    reported_bad_loss: bool = False
    reported_missing_targets: bool = False
    """Samples without a target have been named on this rank."""
    step_events: frozenset[str] = frozenset()
    """Events within a step that callbacks of any rank listen to."""
    trainable: Trainable | None = None
    """The parameters that can be trained, and those of the optimizer; set before training begins."""
    pending_notes: list[str] = field(default_factory=list[str])
    """What this rank has to say, and rank 0 says for it at the next log."""
    kind_of_loss_is_known: bool = False
    """The ranks have agreed on the next field."""
    may_average_micro_batches: bool = True
    """Some rank may have losses that are means of their micro-batches, and not divided by the targets of the step."""
    first_tokens: int = 0
    """Input tokens that were seen before this ``train()`` call, or this attempt of it, began [tokens]."""
    noise: EmbeddingNoise | None = None
    """Added to embeddings, if the arguments ask for it."""
    traced_bad_loss: bool = False
    """The origin of the first bad loss on this rank was looked for."""
    bad_loss_origin: str | None = None
    """What was found."""
    ledger: Path | None = None
    """Where this attempt writes which samples it uses, if ``debug`` asks for it."""
    requested_sizes: MicroBatchSizes | None = None
    """What the arguments asked for, where ``auto_find_batch_size`` may take smaller ones."""

    @property
    def owners(self) -> frozenset[str]:
        """The runs whose checkpoints are this run's own."""
        return frozenset((self.runtime.run_id, *self.continues))
