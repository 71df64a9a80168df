"""What is said when an evaluation fails: where, on which samples, and what probably caused it.

The error stays what it is, with its own traceback; notes are added to it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from raytrainer.data.likely_cause import likely_cause
from raytrainer.data.sample_ids import describe_samples, read_back
from raytrainer.runtimes.base import Runtime
from raytrainer.trainer_protocol import TrainerProtocol


@contextmanager
def told_place(trainer: TrainerProtocol, runtime: Runtime, description: str) -> Generator[None]:
    """While it lasts, an error is told in which pass over which data, after which step and on which rank it was raised.

    Args:
        trainer: Is evaluated.
        runtime: Where this rank runs.
        description: The pass.
    """
    try:
        yield
    except Exception as error:
        step = trainer.state.global_step
        error.add_note(f"In {description} after step {step} on rank {runtime.rank}.")
        raise


@contextmanager
def told_batch(trainer: TrainerProtocol, loader: Any, index: int, inputs: Any) -> Generator[None]:
    """While it lasts, an error is told the samples of a batch and what probably caused it.

    Args:
        trainer: Is evaluated.
        loader: The batches of this rank.
        index: Of the batch.
        inputs: The batch.
    """
    try:
        yield
    except Exception as error:
        error.add_note(f"Batch {index} failed. {describe_samples(loader, index)}")
        cause = likely_cause(error, trainer.model, inputs, read_again=read_back(loader, index))
        if cause is not None:
            error.add_note(f"Likely cause: {cause}")
        raise


@contextmanager
def told_metrics(num_samples: int, **arrays: Any) -> Generator[None]:
    """While it lasts, an error is told what ``compute_metrics`` was given.

    Args:
        num_samples: Samples of the evaluation.
        **arrays: Predictions and labels under their names.
    """
    try:
        yield
    except Exception as error:
        given = ", ".join(f"{name} {shapes(value)}" for name, value in arrays.items())
        error.add_note(f"Raised in compute_metrics, which was given {num_samples} samples: {given}.")
        raise


def shapes(nest: Any) -> str:
    """The shapes of the arrays of a nest, and what else it holds."""
    if isinstance(nest, Mapping):
        named = cast("Mapping[str, Any]", nest)
        return "{" + ", ".join(f"{name}: {shapes(value)}" for name, value in named.items()) + "}"
    if isinstance(nest, tuple):
        return "(" + ", ".join(shapes(value) for value in cast("tuple[Any, ...]", nest)) + ")"
    shape: Any = getattr(nest, "shape", None)
    return type(nest).__name__ if shape is None else str(list(shape))
