"""``save_metrics`` and ``save_state`` of transformers, also when ``output_dir`` is a bucket.

They write by the path in ``args.output_dir``. For a bucket they are called on an object that has what they read of a
trainer, and a directory of this machine as its output directory.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from transformers.trainer_pt_utils import (
    save_metrics,  # pyright: ignore[reportUnknownVariableType]
    save_state,  # pyright: ignore[reportUnknownVariableType]
)

from raytrainer.checkpoint.published import written_to
from raytrainer.trainer_protocol import TrainerProtocol

_ALL_RESULTS = "all_results.json"


def write_metrics(
    self: TrainerProtocol, split: str, metrics: dict[str, float], combined: bool = True
) -> None:
    """Save metrics as ``{split}_results.json`` in ``output_dir``, and add them to ``all_results.json``.

    Args:
        self: The trainer.
        split: "train", "eval", "test" or "all".
        metrics: As ``train``, ``evaluate`` and ``predict`` return them.
        combined: Add them to ``all_results.json`` too.
    """
    if not self.is_world_process_zero():
        return
    with written_to(str(self.args.output_dir), with_files=[_ALL_RESULTS] if combined else []) as directory:
        cast("Any", save_metrics)(_seen_from(self, directory), split, metrics, combined)


def write_state(self: TrainerProtocol) -> None:
    """Save ``trainer.state`` as ``trainer_state.json`` in ``output_dir``."""
    if not self.is_world_process_zero():
        return
    with written_to(str(self.args.output_dir)) as directory:
        cast("Any", save_state)(_seen_from(self, directory))


def _seen_from(trainer: TrainerProtocol, directory: str) -> SimpleNamespace:
    return SimpleNamespace(
        args=SimpleNamespace(output_dir=directory),
        state=trainer.state,
        is_world_process_zero=trainer.is_world_process_zero,
    )
