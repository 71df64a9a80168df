"""What a driver sees of a trainer that has its own loop, and how it stops that loop: through a callback.

The loop has to call the events of ``transformers`` on all ranks, as that of ``transformers`` does.
"""

from __future__ import annotations

import time
from typing import Any

from transformers import TrainerCallback

from raytrainer.runtimes.base import Command, Runtime, WorkersMove
from raytrainer.telemetry.events import (
    EngagedRow,
    Logged,
    PredictionDone,
    PredictionStep,
    StepDone,
    TrainEnded,
    TrainStarted,
)

INTERVAL_S = 0.2
"""How often progress is sent."""


class RunProgress(TrainerCallback):
    """Sends events to the driver and obeys its commands.

    Args:
        runtime: Where this rank runs.
        loop: The class whose loop it is, and its library.
        device: Of this rank.
    """

    def __init__(self, runtime: Runtime, loop: str, device: object) -> None:
        self._runtime = runtime
        self._loop = loop
        self._device = device
        self._last_sent_s = 0.0
        self._began_s = 0.0
        self._first_step = 0
        self._is_interrupted = False
        self._moves = False
        self._num_predicted = 0
        self.resumed_from: str | None = None
        """The checkpoint that the next ``train()`` goes on from."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._is_interrupted = self._moves = False
        self._began_s = time.monotonic()
        self._first_step = state.global_step
        if self._runtime.rank != 0:
            return
        workers = f"{self._runtime.world_size} x {getattr(self._device, 'type', self._device)}"
        self._runtime.emit(
            TrainStarted(
                max_steps=state.max_steps,
                first_step=state.global_step,
                num_epochs=int(state.num_train_epochs or 0),
                attempt=self._runtime.attempt,
                rows=[
                    EngagedRow(what="workers", requested=str(self._runtime.world_size), engaged=workers),
                    EngagedRow(what="loop", requested="its own", engaged=self._loop),
                ],
                num_workers=self._runtime.world_size,
                resumed_from=self.resumed_from,
            )
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # All ranks agree at each step, because they must save and stop at the same one.
        command = self._runtime.agree([self._runtime.command()])[0]
        if command >= Command.STOP_AFTER_SAVE:
            self._is_interrupted = True
            control.should_save = True
            control.should_training_stop = True
        elif command == Command.MOVE:
            self._moves = control.should_save = True
        now_s = time.monotonic()
        if self._runtime.rank != 0 or now_s - self._last_sent_s < INTERVAL_S:
            return
        self._last_sent_s = now_s
        done = state.global_step - self._first_step
        left = state.max_steps - state.global_step
        self._runtime.emit(
            StepDone(
                step=state.global_step,
                max_steps=state.max_steps,
                epoch=float(state.epoch or 0.0),
                samples_per_s=[],
                eta_s=(now_s - self._began_s) / done * left if done > 0 else None,
            )
        )

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._moves and not control.should_training_stop and state.global_step < state.max_steps:
            raise WorkersMove

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        if self._runtime.rank == 0:
            self._runtime.emit(
                Logged(step=state.global_step, max_steps=state.max_steps, logs=dict(logs or {}))
            )

    def on_prediction_step(
        self, args: Any, state: Any, control: Any, eval_dataloader: Any = None, **kwargs: Any
    ) -> None:
        self._num_predicted += 1
        if self._runtime.rank != 0:
            return
        total = len(eval_dataloader) if hasattr(eval_dataloader, "__len__") else None
        self._runtime.emit(PredictionStep(description="Evaluation", done=self._num_predicted, total=total))

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._end_prediction()

    def on_predict(self, args: Any, state: Any, control: Any, metrics: Any, **kwargs: Any) -> None:
        self._end_prediction()

    def _end_prediction(self) -> None:
        self._num_predicted = 0
        if self._runtime.rank == 0:
            self._runtime.emit(PredictionDone(description="Evaluation"))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._runtime.rank != 0:
            return
        last: dict[str, Any] = state.log_history[-1] if state.log_history else {}
        self._runtime.emit(
            TrainEnded(
                step=state.global_step,
                metrics=dict(last) if "train_runtime" in last else {},
                places={"run": str(args.output_dir)},
                interrupted=self._is_interrupted,
            )
        )


def home_of_loop(trainer: object) -> str:
    """The class whose loop a trainer runs, and its library."""
    kinds = type(trainer).__mro__
    owner = next((one for one in kinds if "_inner_training_loop" in vars(one)), kinds[0])
    return f"{owner.__qualname__} of {owner.__module__.partition('.')[0]}"
