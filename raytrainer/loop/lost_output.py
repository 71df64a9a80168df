"""Whether what a run saved is still where it saved it: somebody may remove its directory while it trains.

Training goes on, and the next save makes the directory anew. But what was saved before is gone, and a person should
know at once, and again at the end. A save that was being written beside training is gone too; it is made again.
"""

from __future__ import annotations

import os

from transformers.trainer_utils import SaveStrategy

from raytrainer.checkpoint.locate import is_checkpoint, is_inside
from raytrainer.checkpoint.run_storage import RunStorage
from raytrainer.errors import CheckpointError
from raytrainer.loop.notes import tell
from raytrainer.loop.run import TrainRun
from raytrainer.storage.locations import is_uri


def look_for_saved(run: TrainRun, storage: RunStorage) -> None:
    """Rank 0, before what follows a step may save: say so once if what was saved before is gone.

    This is one look at a name. A bucket is asked at the end only.
    """
    if run.runtime.rank != 0 or run.args.save_strategy == SaveStrategy.NO or is_uri(storage.location):
        return
    place = _place(run, storage)
    if not os.path.lexists(place) and place not in run.removed:
        run.removed[place] = run.trainer.state.global_step
        whole = "" if os.path.isdir(storage.location) else f", with all of {storage.location},"
        tell(
            run.runtime,
            f"{place}{whole} was removed while the run trains; this was seen after step {run.removed[place]}. What "
            "was saved there is gone. Training goes on, and the next save makes the directory anew.",
        )


def tell_what_is_gone(run: TrainRun, storage: RunStorage) -> None:
    """Rank 0, at the end: say what was removed meanwhile, and whether the last checkpoint is there."""
    if run.runtime.rank != 0:
        return
    look_for_saved(run, storage)
    said = [
        f"{place} was removed during the run, at step {step} or before."
        for place, step in run.removed.items()
    ]
    if is_uri(storage.location) and run.last_checkpoint is not None:
        last = _place(run, storage)
        if last != storage.location and not is_checkpoint(last):
            said.append(f"{last} was removed during the run.")
    if said:
        tell(run.runtime, " ".join([*said, "save_model() writes the trained weights to another place."]))


def is_save_gone(run: TrainRun, storage: RunStorage, step: int, error: CheckpointError | None = None) -> bool:
    """All ranks, of a save that is written beside training: whether what was written was removed. Rank 0 says so.

    Args:
        run: The run.
        storage: Where the checkpoint was to be. A bucket has no directory that could be removed.
        step: Of the save.
        error: What ended it, on all ranks; None if it may still be committed.
    """
    runtime = run.runtime
    if is_uri(storage.location):
        return False
    if error is not None:
        # By its text, which is the same on all ranks: its cause is known to the rank alone on which it failed.
        is_gone = f"{FileNotFoundError.__name__}: " in str(error)
    else:
        is_gone = runtime.rank == 0 and not os.path.lexists(storage.location)
        if runtime.world_size > 1:
            is_gone = bool(runtime.agree([int(is_gone)])[0])
    if is_gone:
        look_for_saved(run, storage)
        if runtime.rank == 0:
            tell(
                runtime,
                f"The save of step {step} was being written in {storage.location}, and what was written was removed. "
                "It is made again, of the state as it is then.",
            )
    return is_gone


def _place(run: TrainRun, storage: RunStorage) -> str:
    last = run.last_checkpoint
    return last if last is not None and is_inside(last, storage.location) else storage.location
