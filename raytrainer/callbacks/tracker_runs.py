"""Which names trackers use for a run, kept in ``output_dir/logs/reporters.json``.

Each tracker has its own name for a run: MLflow an id, TensorBoard a directory. Restarted workers, and users who resume
from a checkpoint in the same directory, continue under that name, so that one run is also one run in the tracker.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

RECORD_NAME = "reporters.json"


class RunRecord:
    """The names of one ``train()`` call.

    Args:
        directory: The run directory.
        run_id: Identifies the call, across all of its attempts.
        is_restart: Whether an earlier attempt of the call exists.
        is_resumed: Whether the call goes on with what is in this directory: it resumes from a checkpoint in it, or it
            is the directory of a trial, which may also go on from the checkpoint of another one.
        first_step: The step that the trackers see next.
    """

    def __init__(
        self, directory: Path, *, run_id: str, is_restart: bool, is_resumed: bool, first_step: int
    ) -> None:
        self._path = directory / "logs" / RECORD_NAME
        self._run_id = run_id
        self.first_step = first_step
        saved = self._read()
        continues = is_resumed or (is_restart and saved.get("run_id") == run_id)
        self._names: dict[str, str] = dict(saved.get("names", {})) if continues else {}

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # Only names are lost: the trackers begin a new run.

    def name(self, reporter: str) -> str | None:
        """The name under which a reporter began the run; None if it has not begun."""
        return self._names.get(reporter)

    def remember(self, reporter: str, name: str) -> None:
        """Rank 0: save the name of a reporter's run."""
        if self._names.get(reporter) == name and self._read().get("run_id") == self._run_id:
            return
        self._names[reporter] = name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        body = {"run_id": self._run_id, "names": self._names}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
        part.replace(self._path)


def give_record(callbacks: Iterable[Any], record: RunRecord) -> None:
    """Hand the record of a run to the callbacks that use it."""
    for callback in callbacks:
        if getattr(callback, "keeps_record", False):
            callback.record = record


def join_sweep(callbacks: Iterable[Any], directory: Path, trial: str) -> None:
    """Let the reporters among the callbacks of a trial report to one place, as runs of a sweep.

    Args:
        callbacks: Those of the trial's trainer.
        directory: The sweep's.
        trial: The trial's name.
    """
    for callback in callbacks:
        if getattr(callback, "keeps_record", False):
            callback.join_sweep(directory, trial)
