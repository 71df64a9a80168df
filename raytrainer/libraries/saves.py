"""How a checkpoint that a trainer of ``transformers`` writes is committed by a manifest.

The trainer's own ``_save_checkpoint`` writes all files, into a directory that is not a checkpoint yet:
``_get_output_dir`` returns that one for the time of the save. Then ``checkpoint.commit`` hashes them, writes the
manifest and gives the directory its name. Which checkpoints are deleted, and what is uploaded, follows the commit.
"""

from __future__ import annotations

import functools
import logging
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from raytrainer.checkpoint.commit import commit_checkpoint
from raytrainer.checkpoint.manifest import CheckpointFacts
from raytrainer.checkpoint.model_match import model_signature
from raytrainer.checkpoint.names import STATE_NAME, checkpoint_name
from raytrainer.checkpoint.retention import prune
from raytrainer.errors import CheckpointError
from raytrainer.runtimes.base import Runtime
from raytrainer.telemetry.events import CheckpointCommitted

logger = logging.getLogger(__name__)

_INSIDE = "files"
"""Directory in which the trainer makes its ``checkpoint-{step}`` while it saves."""


class CommittedSaves:
    """Replaces ``_save_checkpoint`` of one trainer.

    Args:
        trainer: A trainer of transformers.
        runtime: Where this rank runs.
    """

    def __init__(self, trainer: Any, runtime: Runtime) -> None:
        self._trainer = trainer
        self._runtime = runtime
        self.continues: tuple[str, ...] = ()
        """The runs that the run goes on with."""
        self._save: Callable[..., None] = trainer._save_checkpoint
        trainer._save_checkpoint = self.save_checkpoint

    def save_checkpoint(self, model: Any, trial: Any = None) -> None:
        """All ranks: save as the trainer does, and commit.

        Raises:
            CheckpointError: If the trainer wrote its files elsewhere, or storage failed.
        """
        trainer = self._trainer
        run_dir = Path(trainer._get_output_dir(trial=trial))
        step: int = trainer.state.global_step
        push: Callable[[str], None] = trainer._push_from_checkpoint
        limit: int | None = trainer.args.save_total_limit
        began = time.monotonic()

        def write(target: Path) -> Sequence[Path]:
            inside = str(target / _INSIDE)
            trainer._get_output_dir = functools.partial(_always, inside)
            trainer._push_from_checkpoint = _later
            trainer.args.save_total_limit = None
            try:
                self._save(model, trial)
            finally:
                del trainer._get_output_dir, trainer._push_from_checkpoint
                trainer.args.save_total_limit = limit
            return []

        final = commit_checkpoint(
            run_dir,
            step,
            runtime=self._runtime,
            write_parts=[write, functools.partial(self._move_up, run_dir, step)],
            facts=self._facts(),
        )
        if self._runtime.rank == 0:
            size = sum(path.stat().st_size for path in final.rglob("*") if path.is_file())
            seconds = time.monotonic() - began
            self._runtime.emit(
                CheckpointCommitted(step=step, path=str(final), num_bytes=size, seconds=seconds)
            )
            best = trainer.state.best_model_checkpoint
            owners = {self._runtime.run_id, *self.continues}
            prune(run_dir, limit=limit, keep=[best] if best is not None else [], owners=owners)
        if trainer.args.push_to_hub:
            push(str(final))

    def _move_up(self, run_dir: Path, step: int, target: Path) -> Sequence[Path]:
        """All ranks know where the best checkpoint will be; rank 0 moves the files where they belong."""
        state = self._trainer.state
        if state.best_global_step and state.best_model_checkpoint is not None:
            best = run_dir / checkpoint_name(state.best_global_step)
            if state.best_global_step == step or best.is_dir():
                state.best_model_checkpoint = str(best)
        if self._runtime.rank != 0:
            return []
        written = target / _INSIDE / checkpoint_name(step)
        if not written.is_dir():
            raise CheckpointError(
                f"{_name(self._trainer)}._save_checkpoint wrote no {checkpoint_name(step)} into the directory that "
                "self._get_output_dir(trial) returns, so raytrainer cannot commit it. Write it there."
            )
        for child in written.iterdir():
            os.rename(child, target / child.name)
        shutil.rmtree(target / _INSIDE)
        if (target / STATE_NAME).is_file():
            state.save_to_json(str(target / STATE_NAME))
        return []

    def _facts(self) -> CheckpointFacts:
        trainer = self._trainer
        args = trainer.args
        batch = args.train_batch_size * args.gradient_accumulation_steps * self._runtime.world_size
        return CheckpointFacts(
            epoch=float(trainer.state.epoch or 0.0),
            samples_consumed=batch * trainer.state.global_step,
            global_batch_size=batch,
            model_signature=model_signature(trainer.model),
            continues=self.continues,
        )


def _always(directory: str, trial: object = None) -> str:
    del trial
    return directory


def _name(value: object) -> str:
    return type(value).__qualname__


def _later(checkpoint_folder: str) -> None:
    """Uploads wait for the commit, which gives the directory another name."""
    del checkpoint_folder
