"""Which lines a run logs at INFO, and on which ranks."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import transformers

from tests.parity.twins import LIBRARIES, make_trainer

SHARED = (
    "***** Running training *****",
    "  Num examples = 50",
    "  Num Epochs = 1",
    "  Num update steps per epoch = 13",
    "  Instantaneous batch size per device = 4",
    "  Total train batch size (w. parallel, distributed & accumulation) = 4",
    "  Gradient Accumulation steps = 1",
    "  Total optimization steps = 1",
    "  Number of trainable parameters = 27,040",
    "***** Running Evaluation *****",
    "  Num examples = 10",
    "  Batch size = 8",
)


@pytest.fixture(autouse=True)
def verbosity_is_restored() -> Iterator[None]:
    before = transformers.utils.logging.get_verbosity()
    yield
    transformers.utils.logging.set_verbosity(before)


@pytest.fixture
def lines() -> Iterator[list[str]]:
    """What reaches the handlers of transformers."""
    found: list[str] = []

    class Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            found.append(record.getMessage().strip("\n"))

    handler = Keep()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield found
    logger.removeHandler(handler)


@pytest.mark.parametrize("name", LIBRARIES)
def test_training_and_evaluation_begin_with_the_lines_of_transformers(
    tmp_path: Path, name: str, lines: list[str]
):
    trainer = make_trainer(LIBRARIES[name], tmp_path, max_steps=1, log_level="info")
    trainer.train()
    trainer.evaluate()
    assert [line for line in lines if line in SHARED] == list(SHARED)


@pytest.mark.parametrize("name", LIBRARIES)
def test_the_constructor_sets_the_verbosity(tmp_path: Path, name: str, lines: list[str]):
    trainer = make_trainer(LIBRARIES[name], tmp_path, max_steps=1, log_level="error")
    assert transformers.utils.logging.get_verbosity() == logging.ERROR
    trainer.train()
    assert not any(line in SHARED for line in lines)
