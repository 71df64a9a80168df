"""Runs that save beside training, for tests: a process that writes when it may, and what is in a checkpoint."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import transformers

from raytrainer.checkpoint.manifest import MANIFEST_NAME, read_manifest

ROOT = Path(__file__).parents[2]
VICTIM = Path(__file__).with_name("saves_victim.py")
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


def killed_runs(
    root: Path, moments: Collection[str], *words: str, environment: Mapping[str, str] | None = None
) -> dict[str, Path]:
    """Have runs killed while they save (``saves_victim``), each at another moment.

    Args:
        root: For their directories.
        moments: All of these.
        words: More arguments of the script.
        environment: More variables.

    Returns:
        Moment -> the directory of the run that was killed then.
    """
    done = subprocess.run(
        [sys.executable, str(VICTIM), str(root), *words],
        env={**os.environ, "PYTHONPATH": str(ROOT), **(environment or {})},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    lines = json.loads((root / "killed.json").read_text())
    assert [(moment, code) for moment, _, code in lines] == [(moment, -signal.SIGKILL) for moment in moments]
    return {moment: Path(directory) for moment, directory, _ in lines}
