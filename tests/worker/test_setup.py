"""Setting a trainer up on a worker."""

from __future__ import annotations

import pytest

from raytrainer.worker import setup


def test_a_model_that_cannot_be_loaded_is_named(monkeypatch):
    def fail(name: str) -> None:
        raise OSError("the Hub cannot be reached")

    monkeypatch.setattr(setup, "load_config", fail)
    with pytest.raises(OSError, match="cannot be reached") as caught:
        setup.load_model("bert-base-uncased")
    assert "the model 'bert-base-uncased'" in caught.value.__notes__[0]
