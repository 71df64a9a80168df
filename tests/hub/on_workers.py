"""Code that Ray's workers import by name."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainerCallback

from tests.hub.server import client_points_at


class PointsAt(TrainerCallback):
    """Points the Hub client of each worker to the test's server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Never exited: the worker process ends with the test.
        client_points_at(self.url, pytest.MonkeyPatch()).__enter__()
