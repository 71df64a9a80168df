"""What is said when a step fails: the step, the rank, the samples of the micro-batch, and what probably caused it.

The error stays what it is, with its own traceback; notes are added to it. This rank alone, without a collective: the
others may be anywhere.
"""

from __future__ import annotations

from typing import Any

from raytrainer.backends.reduction_errors import explain_reduction
from raytrainer.data.likely_cause import is_late, likely_cause
from raytrainer.data.sample_ids import describe_samples, read_back
from raytrainer.loop.out_of_memory import OutOfMemory
from raytrainer.loop.run import TrainRun

_CAUSE = "Likely cause: "


def tell_step(run: TrainRun, error: Exception) -> None:
    """Add to an error the step that the run is in."""
    error.add_note(f"{step_of(run)}.")


def tell_late_cause(run: TrainRun, error: Exception) -> None:
    """Add to an error that a GPU reports late what caused it, wherever the host noticed it."""
    notes: list[str] = getattr(error, "__notes__", [])
    if is_late(error) and not any(note.startswith(_CAUSE) for note in notes):
        index = max(0, run.cursor.micro_batches - 1)
        newest = f"micro-batch {index} of epoch {run.cursor.epoch}. {describe_samples(run.loader, index)}"
        error.add_note(f"{step_of(run)}, or before it. The newest micro-batch is {newest}")
        cause = likely_cause(error, run.trainer.model, None, read_again=read_back(run.loader, index))
        error.add_note(f"{_CAUSE}{cause}")


def explain_failure(run: TrainRun, error: Exception, inputs: Any) -> None:
    """Add to an error of a forward or backward pass what is known about it.

    Args:
        run: The run.
        error: What was raised.
        inputs: The micro-batch.
    """
    if isinstance(error, OutOfMemory):
        return
    index = run.cursor.micro_batches
    error.add_note(
        f"{step_of(run)}, micro-batch {index} of epoch {run.cursor.epoch}. {describe_samples(run.loader, index)}"
    )
    cause = explain_reduction(error, run.model, run.args.ddp_find_unused_parameters) or likely_cause(
        error, run.trainer.model, inputs, read_again=read_back(run.loader, index)
    )
    if cause is not None:
        error.add_note(f"{_CAUSE}{cause}")


def step_of(run: TrainRun) -> str:
    """The step that the run is in, and this rank."""
    return f"In step {run.trainer.state.global_step + 1} on rank {run.runtime.rank}"
