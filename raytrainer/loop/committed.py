"""What follows when a checkpoint was committed: the driver hears of it, it is uploaded, old ones are deleted."""

from __future__ import annotations

from raytrainer.checkpoint.commit import Committed
from raytrainer.checkpoint.locate import readable
from raytrainer.checkpoint.run_storage import RunStorage
from raytrainer.hub.checkpoint_uploads import uploads_checkpoints
from raytrainer.loop.run import TrainRun
from raytrainer.telemetry.events import CheckpointCommitted


def after_commit(
    run: TrainRun,
    storage: RunStorage,
    saved: Committed,
    step: int,
    *,
    seconds: float,
    waited_s: float | None = None,
) -> None:
    """All ranks: follow a commit.

    Args:
        run: The run.
        storage: Where the checkpoint is.
        saved: The checkpoint.
        step: Its step.
        seconds: How long the save took [s].
        waited_s: How long training waited for it, if that was shorter [s].
    """
    trainer, args = run.trainer, run.args
    run.last_checkpoint = saved.location
    if run.runtime.rank == 0:
        run.runtime.emit(
            CheckpointCommitted(
                step=step,
                path=saved.location,
                num_bytes=saved.num_bytes,
                seconds=seconds,
                waited_s=waited_s,
                phases=saved.phases,
            )
        )
    if args.push_to_hub:
        # Before the retention, which may take its files away.
        has_files = run.runtime.rank == 0 and uploads_checkpoints(args)
        trainer._push_from_checkpoint(str(readable(saved.location) if has_files else saved.location))
    if run.runtime.rank == 0:
        best = trainer.state.best_model_checkpoint
        storage.prune(
            limit=args.save_total_limit,
            keep={best} if best else set(),
            owners=run.owners,
            beside=run.saves_beside.deletions if run.saves_beside is not None else None,
        )
    storage.share()
