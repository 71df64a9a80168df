"""All counting of a run: steps, epochs, micro-batches, samples.

Pure integer arithmetic over what the arguments say and what the data loader knows of its length. No model, no
process group, no Ray.
"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

from raytrainer.data.dealing import Dealing
from raytrainer.errors import ConfigurationError


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainPlan:
    """What a run will do, derived once."""

    max_steps: int
    """Optimizer steps of the whole run."""
    num_epochs: int
    """Passes over the data, the last one possibly partial."""
    steps_per_epoch: int
    """Optimizer steps of one epoch; of the whole run where the data has no length."""
    micro_batches_per_epoch: int
    """Micro-batches of one epoch on one rank."""
    accumulation: int
    """Micro-batches of a full optimizer step on one rank."""
    round_size: int
    """Samples of one micro-batch over all ranks; over the largest number of ranks, if it may change."""
    global_batch_size: int
    """Samples of one full optimizer step over all ranks."""
    num_examples: int
    """Samples of one epoch."""
    num_train_samples: float
    """Samples of the whole run, for throughput."""
    has_length: bool
    dealing: Dealing | None = None
    """How the micro-batches of a step reach the ranks there are, if their number may change."""

    def rounds_after(self, micro_batches: int) -> int:
        """Rounds of an epoch that are done after so many micro-batches on each rank.

        In the middle of a step whose micro-batches are dealt out, those of the steps before it: the step is taken anew.
        """
        if self.dealing is None:
            return micro_batches
        is_whole = micro_batches % self.accumulation == 0 or micro_batches >= self.micro_batches_per_epoch
        if self.has_length and not is_whole:
            micro_batches -= micro_batches % self.accumulation
        return self.dealing.rounds_after(micro_batches)

    def micro_batches_after(self, rounds: int) -> int:
        """Micro-batches of an epoch on each rank that cover its first rounds; of whole steps, if they are dealt out."""
        if self.dealing is None:
            return rounds
        if self.has_length and rounds >= self.rounds_after(self.micro_batches_per_epoch):
            return self.micro_batches_per_epoch
        return rounds // self.dealing.accumulation * self.accumulation

    def part_of_epoch(self, micro_batches: int) -> float:
        """How much of an epoch so many micro-batches on each rank are."""
        return self.rounds_after(micro_batches) / self.rounds_after(self.micro_batches_per_epoch)

    def group_size(self, micro_batches_done: int) -> int:
        """Micro-batches of the next step of an epoch; the last step may have fewer."""
        return min(self.accumulation, self.micro_batches_per_epoch - micro_batches_done)

    def steps_left(self, cursor: Cursor) -> int:
        """Optimizer steps that the data allow after a position of this run."""
        return (
            self.max_steps - cursor.epoch * self.steps_per_epoch - cursor.micro_batches // self.accumulation
        )

    def num_more_epochs(self, cursor: Cursor, global_step: int) -> int:
        """Epochs beyond ``num_epochs`` that the rest of ``max_steps`` takes from a position.

        Args:
            cursor: The position.
            global_step: Steps that are done, which may have had another number of samples.
        """
        left = self.max_steps - global_step
        done = cursor.epoch * self.steps_per_epoch + cursor.micro_batches // self.accumulation
        return max(math.ceil((done + left) / self.steps_per_epoch) - self.num_epochs, 0)

    def position_at(self, global_step: int) -> tuple[int, int]:
        """Where the data stands after so many steps.

        Returns:
            The epoch's index, and the micro-batches of it that were consumed on each rank.
        """
        epoch, step_in_epoch = divmod(global_step, self.steps_per_epoch)
        return epoch, step_in_epoch * self.accumulation


def make_plan(
    *,
    max_steps: int,
    num_train_epochs: float,
    accumulation: int,
    per_device_batch_size: int,
    world_size: int,
    loader_length: int | None,
    num_examples: int | None,
    dealing: Dealing | None = None,
) -> TrainPlan:
    """Derive the plan of a run.

    Args:
        max_steps: Wins over epochs when positive.
        num_train_epochs: May be fractional; the number of steps is rounded up.
        accumulation: Micro-batches of one step.
        per_device_batch_size: Samples of one micro-batch on one rank.
        world_size: Number of ranks; the largest one, if it may change.
        loader_length: Micro-batches of an epoch on one rank; None where the data has no length.
        num_examples: Samples of an epoch, where known.
        dealing: How micro-batches reach the ranks there are, if their number may change.

    Raises:
        ConfigurationError: If neither the data nor ``max_steps`` says when to end, or there are no data.
    """
    round_size = per_device_batch_size * world_size
    global_batch = round_size * accumulation
    accumulation = accumulation if dealing is None else dealing.full_turns
    if loader_length is None:
        if max_steps <= 0:
            raise ConfigurationError(
                "The training data has no length and max_steps is not set, so the run would have no end. "
                "Set max_steps to the number of optimizer steps."
            )
        return TrainPlan(
            max_steps=max_steps,
            num_epochs=sys.maxsize,
            steps_per_epoch=max_steps,
            micro_batches_per_epoch=max_steps * accumulation,
            accumulation=accumulation,
            round_size=round_size,
            global_batch_size=global_batch,
            num_examples=global_batch * max_steps,
            num_train_samples=max_steps * global_batch,
            has_length=False,
            dealing=dealing,
        )
    if loader_length == 0:
        raise ConfigurationError(
            f"The training data loader has no batch: {num_examples} examples do not fill one batch of "
            f"{per_device_batch_size} on each of {world_size} workers with dataloader_drop_last. "
            "Lower per_device_train_batch_size, or set dataloader_drop_last=False."
        )
    steps_per_epoch = math.ceil(loader_length / accumulation)
    examples = num_examples if num_examples is not None else loader_length * per_device_batch_size
    if max_steps > 0:
        num_epochs = math.ceil(max_steps / steps_per_epoch)
        num_train_samples: float = max_steps * global_batch
    else:
        max_steps = math.ceil(num_train_epochs * steps_per_epoch)
        num_epochs = math.ceil(num_train_epochs)
        num_train_samples = examples * num_train_epochs
    return TrainPlan(
        max_steps=max_steps,
        num_epochs=num_epochs,
        steps_per_epoch=steps_per_epoch,
        micro_batches_per_epoch=loader_length,
        accumulation=accumulation,
        round_size=round_size,
        global_batch_size=global_batch,
        num_examples=examples,
        num_train_samples=num_train_samples,
        has_length=True,
        dealing=dealing,
    )


@dataclass(kw_only=True, slots=True)
class Cursor:
    """Where a run is. The only mutable counters besides the public ``TrainerState``."""

    epoch: int = 0
    """Index of the epoch."""
    micro_batches: int = 0
    """Micro-batches of this epoch that were consumed on each rank."""
    samples_before: int = 0
    """Samples of the global order that earlier epochs consumed."""
    num_more_epochs: int = 0
    """Epochs beyond the plan's, because steps before had more samples than those of this run."""
    is_at_epoch_end: bool = False
    """No step was taken since the last ``on_epoch_end``, which a run that goes on from here must not repeat."""

    def samples_in_epoch(self, plan: TrainPlan) -> int:
        """Samples of the epoch's global order that were consumed."""
        return plan.rounds_after(self.micro_batches) * plan.round_size

    def samples_consumed(self, plan: TrainPlan) -> int:
        """Samples that the run consumed so far over all ranks."""
        return self.samples_before + self.samples_in_epoch(plan)
