"""A session without a model: its methods do what a test wants to see on a worker."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raytrainer.arguments.ray_options import RayOptions
from raytrainer.runtimes.base import Command, WorkersMove
from raytrainer.telemetry.events import CheckpointCommitted, Logged, Note, StepDone, TrainStarted

TOY = "tests.driver.toy:open_toy"


def toy_args(output_dir: Path, **changes: Any) -> RayOptions:
    """The arguments that a worker group reads."""
    values = {
        "num_workers": 2,
        "use_gpu": None,
        "use_cpu": True,
        "resources_per_worker": None,
        "placement_strategy": "PACK",
        "accelerator_type": None,
        "label_selector": None,
        "full_determinism": False,
        "max_failures": 3,
        "enable_jit_checkpoint": False,
        "ray_address": None,
        "worker_idle_timeout_s": 300.0,
        "cluster_timeout_s": 5.0,
        "placement_timeout_s": 60.0,
        "elastic_timeout_s": 5.0,
        "hang_warning_s": 60.0,
        "hang_timeout_s": None,
        "fork_workers": True,
        "output_dir": str(output_dir),
        "ddp_backend": None,
        "ddp_timeout": 120,
    }
    args = RayOptions()
    vars(args).update(values | changes)
    return args


@dataclass
class ToyTrainer:
    """The object that is sent to the workers."""

    directory: str
    weights: Any = None
    extra: dict[str, Any] = field(default_factory=dict)


class Unpicklable:
    def __reduce__(self) -> Any:
        raise TypeError("not me")


class StrangeError(Exception):
    """Pickle cannot call its constructor."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def user_loss(step: int) -> None:
    raise ValueError(f"shapes do not fit at step {step}")


class ToySession:
    def __init__(self, trainer: ToyTrainer, runtime: Any) -> None:
        self.trainer = trainer
        self.runtime = runtime
        self.step: int | None = None
        self.is_closed = False
        self.opened = time.time()

    def run(
        self,
        method: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        restarted: bool,
        context: Any = None,
    ) -> Any:
        return getattr(self, method)(*args, restarted=restarted, **kwargs)

    def final_weights(self) -> Any:
        return {"weights": torch.arange(4.0), "step": self.step}

    def weights_held(self) -> Any:
        return {**self.final_weights(), "after": "a failure"}

    def close(self) -> None:
        self.is_closed = True

    # ---- tasks --------------------------------------------------------------------------------------------------

    def describe(self, *, restarted: bool) -> dict[str, Any]:
        mine = (os.getpid(), self.runtime.rank, self.runtime.local_rank, torch.get_num_threads(), os.getcwd())
        ranks = self.runtime.gather(mine)
        return {
            "ranks": ranks,
            "world": self.runtime.world_size,
            "run_id": self.runtime.broadcast(self.runtime.run_id),
            "agreed": self.runtime.agree([self.runtime.rank, 1 - self.runtime.rank]),
            "shared": self.trainer.weights is None or self.trainer.weights[0] is self.trainer.weights[1],
        }

    def echo(self, value: Any, *, restarted: bool) -> Any:
        return value

    def train(
        self,
        steps: int,
        *,
        restarted: bool,
        fail: str | None = None,
        at: int = -1,
        rank: int = 1,
        every: int = 1,
    ) -> dict[str, Any]:
        """Count steps; a "checkpoint" is a file with the number of finished steps."""
        marker = Path(self.trainer.directory) / "checkpoint"
        first = int(marker.read_text()) if marker.exists() else 0
        if self.runtime.rank == 0:
            self.runtime.emit(
                TrainStarted(
                    max_steps=steps, first_step=first, num_epochs=1, attempt=self.runtime.attempt, rows=[]
                )
            )
        self.step = first
        was_stopped = False
        while self.step < steps and not was_stopped:
            if self.runtime.rank == rank and self.step == at and (fail or "").endswith("always"):
                self.fail(fail or "")
            elif self.runtime.rank == rank and self.step == at and not restarted and fail:
                self.fail(fail)
            total = torch.ones(1)
            dist.all_reduce(total)
            self.step += 1
            # "deaf" goes on after a command, as a long save does.
            command = Command(self.runtime.agree([int(self.runtime.command())])[0])
            was_stopped = command > Command.MOVE and fail != "deaf"
            moves = command is Command.MOVE
            if self.runtime.rank == 0:
                self.runtime.emit(StepDone(step=self.step, max_steps=steps, epoch=0.0, samples_per_s=[]))
                self.runtime.emit(Logged(step=self.step, max_steps=steps, logs={"loss": 1.0}))
                if was_stopped or moves or self.step % every == 0:
                    draft = marker.with_suffix(".draft")  # a worker may be killed at any moment
                    draft.write_text(str(self.step))
                    draft.replace(marker)
                    self.runtime.emit(
                        CheckpointCommitted(
                            step=self.step, path=f"checkpoint-{self.step}", num_bytes=1, seconds=0.0
                        )
                    )
            self.runtime.barrier()
            if moves:
                raise WorkersMove
            if fail in ("slow", "deaf"):
                time.sleep(0.1)
        return {"step": self.step, "first": first, "attempt": self.runtime.attempt, "stopped": was_stopped}

    def fail(self, how: str) -> None:
        if how.startswith("kill"):
            self.runtime.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        elif how == "stop":
            self.runtime.flush()
            os.kill(os.getpid(), signal.SIGSTOP)
        elif how == "terminate":
            os.kill(os.getpid(), signal.SIGTERM)
        elif how.startswith("value"):
            user_loss(self.step or 0)
        elif how.startswith("os"):
            raise OSError(5, "disk is sulking")
        elif how.startswith("strange"):
            raise StrangeError("one", "two")

    def meet(self, *, restarted: bool) -> Any:
        """Ray Train's own collective, as a user's code may call it."""
        import ray.train.collective

        return ray.train.collective.broadcast_from_rank_zero(f"from rank {self.runtime.rank}")

    def stuck(self, *, restarted: bool) -> None:
        """Rank 1 fails while rank 0 is busy outside of any collective."""
        if self.runtime.rank == 1:
            user_loss(0)
        time.sleep(600)

    def unpicklable(self, *, restarted: bool) -> Any:
        return Unpicklable()

    def big(self, *, restarted: bool) -> Any:
        return {"array": np.ones((1000, 1000)), "tensor": torch.ones(3, dtype=torch.bfloat16)}

    def say(self, *, restarted: bool) -> None:
        print(f"hello from rank {self.runtime.rank}")
        self.runtime.emit(Note(text=f"note {self.runtime.rank}"))


def open_toy(trainer: ToyTrainer, runtime: Any) -> ToySession:
    return ToySession(trainer, runtime)
