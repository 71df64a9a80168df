"""What a benchmark has measured, for whoever runs several of them and compares: ``benchmarks/table.py``."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

VARIABLE = "RAYTRAINER_BENCHMARK_READINGS"
"""Names the file that readings are appended to, one JSON object a line; nothing is written without it."""


def note(figure: str, side: str, *values: float, beside: float | None = None) -> None:
    """Append readings.

    Args:
        figure: What was measured.
        side: ``raytrainer``, or the peer's name.
        values: The readings [s].
        beside: The peer's reading of the same process, where a reading has one [s].
    """
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a") as file:
            for value in values:
                file.write(
                    json.dumps({"figure": figure, "side": side, "value": value, "beside": beside}) + "\n"
                )


def noted(path: Path) -> list[dict[str, Any]]:
    """All readings of a file, in the order in which they were taken."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
