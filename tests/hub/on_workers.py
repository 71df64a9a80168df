"""Code that Ray's workers import by name."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from tests.hub.server import client_points_at


class TellsToken(TrainerCallback):
    """Each rank writes what it has: the expected token, another one, or none.

    Args:
        directory: Gets a file of each rank and event.
        expected: Digest of the token.
    """

    def __init__(self, directory: Path, expected: str) -> None:
        self.directory, self.expected = directory, expected

    def tell(self, event: str, args: Any) -> None:
        has_it = args.hub_token is not None and digest(args.hub_token) == self.expected
        text = "the token" if has_it else "none" if args.hub_token is None else "another"
        (self.directory / f"{event}-{args.process_index}").write_text(text)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell("train", args)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.tell("evaluate", args)


def digest(token: str) -> str:
    """Stands for a token in a file."""
    return hashlib.sha256(token.encode()).hexdigest()


class PointsAt(TrainerCallback):
    """Points the Hub client of each worker to the test's server."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        # Never exited: the worker process ends with the test.
        client_points_at(self.url, pytest.MonkeyPatch()).__enter__()
