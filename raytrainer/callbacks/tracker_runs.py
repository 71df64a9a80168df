"""Under which names a run is known to its trackers, kept in ``output_dir/logs/reporters.json``.

A tracker gives a run a name of its own: MLflow an id, TensorBoard a directory. Workers that start again, and a user
who resumes from a checkpoint in the same directory, go on under that name, so that a run is one run there too.
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
        run_id: Of the call, over all of its attempts.
        is_restart: An earlier attempt of the call began it.
        is_resumed: The call goes on from a checkpoint in this directory.
        first_step: The step that the trackers see next.
    """

    def __init__(
        self, directory: Path, *, run_id: str, is_restart: bool, is_resumed: bool, first_step: int
    ) -> None:
        self._path = directory / "logs" / RECORD_NAME
        self._run_id = run_id
        self.first_step = first_step
        saved = self._read()
        goes_on = is_resumed or (is_restart and saved.get("run_id") == run_id)
        self._names: dict[str, str] = dict(saved.get("names", {})) if goes_on else {}

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}  # Only names are lost: the trackers begin a new run.

    def name(self, reporter: str) -> str | None:
        """The name that a reporter began under; None if it has not begun."""
        return self._names.get(reporter)

    def remember(self, reporter: str, name: str) -> None:
        """Rank 0: keep a name."""
        if self._names.get(reporter) == name and self._read().get("run_id") == self._run_id:
            return
        self._names[reporter] = name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        body = {"run_id": self._run_id, "names": self._names}
        part = self._path.with_suffix(".part")
        part.write_text(json.dumps(body, indent=2) + "\n", encoding="utf-8")
        part.replace(self._path)


def give_record(callbacks: Iterable[Any], record: RunRecord) -> None:
    """Give the record of a run to the callbacks that keep one."""
    for callback in callbacks:
        if getattr(callback, "keeps_record", False):
            callback.record = record
