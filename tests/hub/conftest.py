"""A local Hub server, and trainers that upload to it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import raytrainer
from tests.hub.server import TOKEN, Hub, client_points_at
from tests.parity.twins import make_args, make_model, make_samples


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Large files are sent as LFS objects; this process has a valid token."""
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    suffixes = (".safetensors", ".pt", ".pth")
    with Hub(lfs_suffixes=suffixes) as server, client_points_at(server.url, monkeypatch):
        yield server


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Any]:
    """A trainer that saves every second of four steps to ``my-model``."""

    def build(directory: Path | None = None, callbacks: list[Any] | None = None, **options: Any) -> Any:
        defaults = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "push_to_hub": True}
        model = options.pop("model", None)
        return raytrainer.Trainer(
            model=make_model() if model is None else model,
            args=make_args(raytrainer, directory or tmp_path / "my-model", **{**defaults, **options}),
            train_dataset=make_samples(),
            eval_dataset=make_samples(10),
            callbacks=callbacks,
        )

    return build
