"""Hooks about what a checkpoint holds, and how it is restored.

Each is called for one part, where ``transformers.Trainer`` calls it: while a checkpoint is being written, into a
directory that gets its name when all ranks are done, and while a run is set up to go on from one.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from torch import nn

from raytrainer.callbacks.saved_states import restore_states
from raytrainer.checkpoint.rng import load_rng, ranks_without, save_rng
from raytrainer.checkpoint.state_files import (
    load_optimizer_and_schedule,
    load_scaler,
    save_scaler,
    save_schedule,
)
from raytrainer.data.micro_batches import MicroBatches
from raytrainer.data.position import own_generators
from raytrainer.loop.notes import tell, tell_for_all
from raytrainer.trainer_protocol import TrainerParts

_MOST_NAMED = 8
"""So many ranks are named whose random state is missing."""


class CheckpointHooks(TrainerParts):
    """The parts of a checkpoint. Directories come as text, as in ``transformers``.

    The methods that write return the files that this rank wrote, so that each rank hashes its own. An override may
    return None: then the ranks share out what they find.
    """

    def _get_output_dir(self, trial: object) -> str:
        """The directory of a run: its checkpoints are ``checkpoint-<step>`` in it.

        Args:
            trial: The trial of a search, or None.
        """
        return str(self.args.output_dir)

    # ---- writing ----------------------------------------------------------------------------------------------------

    def _save_optimizer_and_scheduler(self, output_dir: str) -> list[Path] | None:
        """All ranks: write the state of the optimizer, each rank its share; rank 0 that of the schedule."""
        target = Path(output_dir)
        written = self._backend.save_optimizer(self.model, self.optimizer, target)
        if self._runtime.rank == 0:
            written = [*written, save_schedule(target, self.lr_scheduler)]
        return written

    def _save_scaler(self, output_dir: str) -> list[Path] | None:
        """All ranks: rank 0 writes the loss scale of fp16, if there is one."""
        if self._runtime.rank != 0 or self.accelerator.scaler is None:
            return []
        return [save_scaler(Path(output_dir), self.accelerator.scaler)]

    def _save_rng_state(self, output_dir: str) -> list[Path] | None:
        """All ranks: write the random state of this rank, and those from which its data are read again."""
        run, runtime = self._process.run, self._runtime
        batches = None if run is None else run.batches
        ahead = batches.state_before_held if isinstance(batches, MicroBatches) else None
        began = None if run is None or run.cursor.micro_batches == 0 else run.pass_began
        return [
            save_rng(
                output_dir,
                rank=runtime.rank,
                world_size=runtime.world_size,
                ahead=ahead,
                began=began,
                own=None if run is None else own_generators(run.loader),
            )
        ]

    # ---- reading ----------------------------------------------------------------------------------------------------

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        """All ranks: read the weights.

        Args:
            resume_from_checkpoint: The checkpoint.
            model: Gets them; the trainer's own by default.
        """
        self._backend.load_model(self.model if model is None else model, Path(resume_from_checkpoint))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """All ranks: read the states of optimizer and schedule, which exist by then."""
        if checkpoint is not None:
            load_optimizer_and_schedule(
                Path(checkpoint),
                load_optimizer=lambda path: self._backend.load_optimizer(self.model, self.optimizer, path),
                scheduler=self.lr_scheduler,
                report=functools.partial(tell_for_all, self._runtime),
            )

    def _load_scaler(self, checkpoint: str | None) -> None:
        """All ranks: read the loss scale of fp16, if this run has one."""
        if checkpoint is not None and self.accelerator.scaler is not None:
            report = functools.partial(tell_for_all, self._runtime)
            load_scaler(Path(checkpoint), self.accelerator.scaler, report=report)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """All ranks: restore the random state of this rank before the first step.

        A micro-batch that was fetched ahead when the state was saved is fetched again.
        """
        if checkpoint is None:
            return
        run, runtime = self._process.run, self._runtime
        batches = None if run is None else run.batches
        load_rng(
            checkpoint,
            rank=runtime.rank,
            world_size=runtime.world_size,
            fetch_again=batches.fetch_again if isinstance(batches, MicroBatches) else None,
            own=None if run is None else own_generators(run.loader),
        )
        if runtime.rank != 0:
            return
        lacking = ranks_without(checkpoint, runtime.world_size)
        if lacking:
            named = "ranks " if len(lacking) > 1 else "rank "
            named += ", ".join(map(str, lacking[:_MOST_NAMED]))
            more = f" and {len(lacking) - _MOST_NAMED} more" if len(lacking) > _MOST_NAMED else ""
            tell(
                runtime,
                f"{checkpoint} has no random state for {named}{more} of {runtime.world_size}, so dropout and other "
                "randomness differ from a run that was not interrupted. It was saved with another number of workers, "
                "or without optimizer state.",
            )

    def _load_callback_state(self) -> None:
        """All ranks: give the callbacks the states that ``self.state`` carries from a checkpoint."""
        saved: Any = self.state.stateful_callbacks
        self.control = restore_states(self.callback_handler, self.control, saved)
