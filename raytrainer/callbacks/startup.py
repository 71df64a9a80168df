"""``debug="startup"`` on each rank: notes when the run was opened and when its first step was done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback

from raytrainer.telemetry.startup import (
    forget_spans,
    here,
    process_began,
    read_spans,
    write_spans,
    write_trace,
)

if TYPE_CHECKING:
    from transformers import TrainingArguments


class StartupPhases(TrainerCallback):
    """Writes this rank's phases once its first step is done; without a driver, rank 0 also the trace of all."""

    def __init__(self) -> None:
        self._began: float | None = None

    def on_train_begin(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """All ranks: the run is open."""
        if not here.process:
            here.process = f"rank {args.process_index}"
            here.add("imports, data and model", process_began())
            if state.is_world_process_zero:
                forget_spans(args.output_dir or ".")
        else:
            here.add("run opened", here.last)
        self._began = time.time()

    def on_step_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """All ranks: the first step is done."""
        if self._began is not None:
            here.add("first step", self._began)
            self._began = None
            write_spans(args.output_dir or ".", here.take())

    def on_train_end(self, args: TrainingArguments, state: Any, control: Any, **kwargs: Any) -> None:
        """Without a driver: rank 0 puts the phases of all together."""
        if state.is_world_process_zero and not here.has_driver:
            write_trace(args.output_dir or ".", read_spans(args.output_dir or "."))
