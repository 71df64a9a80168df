"""How much memory each stage of a trainer takes, for ``skip_memory_metrics=False``."""

from __future__ import annotations

from typing import ClassVar

from transformers.trainer_utils import TrainerMemoryTracker


class MemoryTracker(TrainerMemoryTracker):
    """Tells stages apart by the name of the function that calls it, as in transformers; these are our functions."""

    stages: ClassVar[dict[str, str]] = {
        **TrainerMemoryTracker.stages,
        "set_up": "init",
        "train_on_rank": "train",
        "close": "train",
    }
