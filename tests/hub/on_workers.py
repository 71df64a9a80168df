"""What a test needs on Ray's workers, which import it by its name."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import TrainerCallback

from tests.hub.server import client_points_at


class PointsAt(TrainerCallback):
    """Lets the client of each worker talk to the Hub of a test."""

    def __init__(self, url: str) -> None:
        self.url = url

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        # Entered and never left: the worker's process ends with the test.
        client_points_at(self.url, pytest.MonkeyPatch()).__enter__()
