"""When a save that is written beside training is committed, as the loop sees it, and what a run does about it.

A save begins where it is due: the state is copied, and training goes on. After each step the ranks look whether it is
written. When it is committed, what follows a save happens as it does otherwise, in the same order: the event, the
upload, the deletion of old checkpoints, ``on_save``. Callbacks see the public state as it was saved, so that
``checkpoint-{state.global_step}`` is the checkpoint that is there now.

Whatever needs the checkpoint waits for it: the next save, the end of training, workers that move. A run that fails on
its only rank waits too, so that what was saved is not lost; where other ranks may not answer any more, the save is
dropped, as if the run had been killed a moment earlier. A save whose directory somebody removes is made again
(``lost_output``).
"""

from __future__ import annotations

import contextlib
import copy
import functools
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from transformers.trainer_utils import SaveStrategy

from raytrainer.checkpoint.background.deletions import Deletions
from raytrainer.checkpoint.background.pending import PendingSave
from raytrainer.checkpoint.background.staging import current_stage
from raytrainer.checkpoint.background.writer import BackgroundWriter
from raytrainer.checkpoint.commit import Committed
from raytrainer.errors import CheckpointError
from raytrainer.loop.committed import after_commit
from raytrainer.loop.lost_output import is_save_gone
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun
from raytrainer.loop.saves_chosen import (
    may_save_beside,
    saves_are_ahead,
    saves_are_beside,
    size_of_copy,
)
from raytrainer.telemetry.events import Busy

if TYPE_CHECKING:
    from transformers import TrainerState

    from raytrainer.checkpoint.commit import CheckpointFacts, WritePart
    from raytrainer.checkpoint.run_storage import RunStorage

_MUCH_AT_ONCE = 32 << 20
"""Bytes that hooks of a save may write themselves before a person hears that training waits for them."""


@dataclass(kw_only=True)
class Begun:
    """A save that began, and has not been committed yet."""

    pending: PendingSave
    storage: RunStorage
    state: TrainerState
    """As it was saved."""
    waited_s: float
    """How long training has waited for it so far [s]."""


class SavesBeside:
    """The saves of one run that are written beside it, one at a time.

    Args:
        is_pinned: The state is on a GPU.
    """

    def __init__(self, *, is_pinned: bool) -> None:
        self.writer = BackgroundWriter(is_pinned=is_pinned)
        self.deletions = Deletions()
        self.begun: Begun | None = None
        self.is_decided = False
        """Whether it is known that they are written beside it, and not in the loop."""
        self.has_told = False
        """Of files that training waits for."""
        self.is_put_off = False
        """Whether a save was due while one was being written, or was lost, and no later one was begun."""
        self.has_told_of_merging = False


def writes_beside(run: TrainRun) -> bool:
    """All ranks, before a save: whether it is written beside training; the first save decides for all."""
    saves = run.saves_beside
    if saves is not None and not saves.is_decided:
        saves.is_decided = saves_are_beside(run, saves.writer)
        if not saves.is_decided:
            saves.writer.close()
            run.saves_beside = None
    return run.saves_beside is not None


def begin_save(
    run: TrainRun,
    storage: RunStorage,
    *,
    began: float,
    keep_files: bool,
    write_parts: Sequence[WritePart],
    facts: CheckpointFacts,
) -> None:
    """All ranks: copy the state, and go on while it is written; the save before is committed.

    Args:
        run: The run.
        storage: Where the checkpoint will be.
        began: When the save began, on the monotonic clock [s].
        keep_files: This rank needs its files after the commit.
        write_parts: As in ``commit_checkpoint``.
        facts: What the manifest says about the run.
    """
    saves, state = run.saves_beside, run.trainer.state
    assert saves is not None
    destination = storage.destination(state.global_step, runtime=run.runtime, keep_files=keep_files)
    pending = PendingSave(
        destination, state.global_step, runtime=run.runtime, facts=facts, writer=saves.writer
    )
    saves.deletions.wait()  # so that the disk needs no room for one more
    at_once = pending.stage([functools.partial(_claiming_staged, part) for part in write_parts])
    if at_once > _MUCH_AT_ONCE and not saves.has_told:
        saves.has_told = True
        tell(
            run.runtime,
            f"{at_once / 1e6:,.0f} MB of the save of step {state.global_step} were written while training waited, "
            "because an overridden method or a library writes these files itself. Only what raytrainer, transformers "
            "and PEFT save is written beside training.",
        )
    saves.is_put_off = False
    saved = copy.copy(state)
    saved.log_history = list(state.log_history)
    saves.begun = Begun(pending=pending, storage=storage, state=saved, waited_s=time.monotonic() - began)


def _claiming_staged(write_part: WritePart, target: Path) -> list[Path]:
    """Write a part; this rank records what it left to its process, whose content no other rank's process could hash.

    Hooks that do not say what they wrote leave that to rank 0, which is right for what is written already.
    """
    written, stage = write_part(target), current_stage()
    staged = [image.path for image in stage.files] if stage is not None else []
    return [
        *written,
        *(path for path in staged if path.is_file()),
    ]  # a hook may have moved one, which is an error


def puts_off(run: TrainRun, *, is_last: bool) -> bool:
    """All ranks, when a save is due: whether it is made when the one before is committed, of the state at that step.

    Args:
        run: The run.
        is_last: Whether the ranks have agreed that no step follows.
    """
    saves, state = run.saves_beside, run.trainer.state
    if saves is None or saves.begun is None or run.args.async_save_overlap != "merge":
        return False
    if run.interrupted or run.moves or is_last:
        return False
    saves.is_put_off = True
    if not saves.has_told_of_merging:
        saves.has_told_of_merging = True
        tell(
            run.runtime,
            f"The save of step {state.global_step} was due while that of step {saves.begun.pending.step} was being "
            "written, and is made when that is committed (async_save_overlap='merge'). So are those that follow.",
            level="info",
        )
    return True


def is_put_off(run: TrainRun) -> bool:
    """All ranks, between two steps: whether a save that was put off is to be made now.

    That is when none is being written any more, or when training ends. A last step that the end of its epoch may save
    is left to that, so that it is saved once.
    """
    saves = run.saves_beside
    if saves is None or not saves.is_put_off or run.stopped:
        return False
    if is_ending(run):
        follows = run.args.save_strategy != SaveStrategy.STEPS and not run.cursor.is_at_epoch_end
        return run.interrupted or not follows
    return saves.begun is None


def is_ending(run: TrainRun) -> bool:
    """Whether no step follows."""
    state = run.trainer.state
    return run.trainer.control.should_training_stop or state.global_step >= state.max_steps


def is_writing(run: TrainRun) -> bool:
    """This rank: whether it still writes a save; never blocks."""
    begun = run.saves_beside.begun if run.saves_beside is not None else None
    return begun is not None and begun.pending.is_busy()


def look_for_commit(run: TrainRun) -> bool:
    """All ranks, after a step in which no rank was writing: go on with the save that was written, if there is one.

    Returns:
        Whether it was committed, so that callbacks may have asked for something.

    Raises:
        CheckpointError: On all ranks, if storage failed on one of them.
    """
    begun = run.saves_beside.begun if run.saves_beside is not None else None
    if begun is None:
        _prepare(run)
        return False
    saved = _go_on(run, begun, begun.pending.go_on)
    if saved is None:
        return False
    _follow(run, begun, saved)
    return True


def _prepare(run: TrainRun) -> None:
    """All ranks, after the first step: get ready for the first save, if it is due later and steps will follow it."""
    saves, control = run.saves_beside, run.trainer.control
    if saves is None or saves.is_decided or control.should_save or not saves_are_ahead(run):
        return
    if writes_beside(run):
        saves.writer.prepare(size_of_copy(run))


def finish_save(run: TrainRun) -> None:
    """All ranks: wait until the save that is being written is committed, or is known to be made again.

    Raises:
        CheckpointError: On all ranks, if storage failed on one of them.
    """
    begun = run.saves_beside.begun if run.saves_beside is not None else None
    if begun is None:
        return
    if run.runtime.rank == 0:
        run.runtime.emit(Busy(what="a save"))
    saved = _go_on(run, begun, begun.pending.finish)
    if saved is not None:
        _follow(run, begun, saved)


@contextlib.contextmanager
def saving_beside(run: TrainRun) -> Generator[None]:
    """This rank: saves of a run may be written beside it while it lasts; nothing is left of the process then.

    Args:
        run: Ends within.
    """
    if not may_save_beside(run.trainer):
        yield
        return
    saves = run.saves_beside = SavesBeside(is_pinned=run.args.device.type == "cuda")
    try:
        yield
    except Exception as error:
        _commit_alone(run, error)
        raise
    finally:
        run.saves_beside = None
        if saves.begun is not None:
            saves.begun.pending.drop()
            tell(run.runtime, f"The save of step {saves.begun.pending.step} was not complete and is dropped.")
        saves.writer.close()
        saves.deletions.wait()


def _go_on(run: TrainRun, begun: Begun, act: Callable[[], Committed | None]) -> Committed | None:
    """Act, for which training waits; a save that fails is over, and made again if what was written was removed."""
    saves, step = run.saves_beside, begun.pending.step
    assert saves is not None
    if is_save_gone(run, begun.storage, step):
        begun.pending.drop()
        saves.begun, saves.is_put_off = None, True
        return None
    began = time.monotonic()
    try:
        return act()
    except BaseException as error:
        saves.begun = None
        if not isinstance(error, Exception):
            begun.pending.drop()  # its process still writes
        if isinstance(error, CheckpointError) and is_save_gone(run, begun.storage, step, error):
            saves.is_put_off = True
            return None
        raise
    finally:
        begun.waited_s += time.monotonic() - began


def _follow(run: TrainRun, begun: Begun, saved: Committed) -> None:
    """All ranks: what follows a commit."""
    assert run.saves_beside is not None
    run.saves_beside.begun = None
    _after_commit(run, begun, saved)
    trainer = run.trainer
    is_due = trainer.control.should_save  # Another save may be, of the state as it is now.
    trainer.control = trainer.callback_handler.on_save(run.args, begun.state, trainer.control)
    trainer.control.should_save |= is_due


def _after_commit(run: TrainRun, begun: Begun, saved: Committed) -> None:
    after_commit(
        run,
        begun.storage,
        saved,
        begun.pending.step,
        seconds=begun.pending.seconds(),
        waited_s=begun.waited_s,
    )


def _commit_alone(run: TrainRun, error: Exception) -> None:
    """One rank, whose run fails: a save that began before is committed, without the callbacks."""
    saves = run.saves_beside
    if saves is None or saves.begun is None or run.runtime.world_size > 1:
        return
    begun = saves.begun
    try:
        saved = begun.pending.finish()
    except Exception as of_save:  # noqa: BLE001 - the run's own error counts
        saves.begun = None
        error.add_note(f"The save of step {begun.pending.step} failed as well: {of_save}")
        return
    saves.begun = None
    try:
        _after_commit(run, begun, saved)
    except Exception as of_rest:  # noqa: BLE001
        error.add_note(f"What follows the save of step {begun.pending.step} failed as well: {of_rest}")
