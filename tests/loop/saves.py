"""Runs that save beside training, for tests: a process that writes when it may, and what is in a checkpoint."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import transformers

from raytrainer.checkpoint.manifest import MANIFEST_NAME, read_manifest

OF_A_CALL = ("called_at",)
"""What the loop's state says about the clock."""


class OpenGate(transformers.TrainerCallback):
    """Lets the process write from a step on."""

    def __init__(self, gate: Path, step: int) -> None:
        self.gate, self.step = gate, step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.gate.touch()


class Calls(transformers.TrainerCallback):
    """Records steps and saves, in their order, and whether the checkpoint was there.

    Args:
        directory: Where the checkpoints are; by default the ``output_dir``.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory
        self.seen: list[tuple[Any, ...]] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(("step", state.global_step))

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        step = state.global_step
        names = [log["step"] for log in state.log_history]
        assert max(names, default=0) <= step, "the state is a later one"
        is_there = Path(self.directory or args.output_dir, f"checkpoint-{step}", MANIFEST_NAME).is_file()
        self.seen.append(("save", step, is_there))

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append(("end",))

    @property
    def saves(self) -> list[int]:
        return [entry[1] for entry in self.seen if entry[0] == "save"]

    def steps_before_save(self, step: int) -> int:
        """How many steps were done when the checkpoint of a step was committed."""
        before = self.seen[: self.seen.index(("save", step, True))]
        return sum(entry[0] == "step" for entry in before)


def content(checkpoint: Path) -> dict[str, Any]:
    """What is in a checkpoint, by file: bytes, or JSON without what differs between any two runs.

    safetensors writes the metadata in its header in any order.
    """
    found: dict[str, Any] = {}
    for name in read_manifest(checkpoint).files:
        data = (checkpoint / name).read_bytes()
        if name == "loop_state.json":
            state = json.loads(data)
            found[name] = {key: value for key, value in state.items() if key not in OF_A_CALL}
        elif name == "training_args.json":
            args = json.loads(data)
            found[name] = {
                key: args[key] for key in args if key not in ("async_save", "output_dir", "logging_dir")
            }
        elif name.endswith(".safetensors"):
            begin = 8 + int.from_bytes(data[:8], "little")
            found[name] = (json.loads(data[8:begin]), data[begin:])
        else:
            found[name] = data
    return found
