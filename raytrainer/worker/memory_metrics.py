"""How much memory each stage of a trainer takes, for ``skip_memory_metrics=False``."""

from __future__ import annotations

from typing import ClassVar

from transformers.trainer_utils import TrainerMemoryTracker


class MemoryTracker(TrainerMemoryTracker):
    """That of transformers, which tells a stage by the name of the function that calls it; these are ours."""

    stages: ClassVar[dict[str, str]] = {
        **TrainerMemoryTracker.stages,
        "bind": "init",
        "train_on_rank": "train",
        "close": "train",
    }
