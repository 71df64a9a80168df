"""Messages of other libraries that are expected and harmless go to the log file alone."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

import raytrainer  # noqa: F401  its import is what is tested
from raytrainer.foreign_warnings import EXPECTED
from raytrainer.telemetry.logfile import attach_rank_log, detach_rank_log

ROOT = Path(__file__).parents[1]
IMPORTS = """
import raytrainer
import transformers.modeling_utils, torchao, deepspeed, torchao.kernel.intmm
"""


class Shown(logging.Handler):
    """Keeps the texts that a handler of a logger gets, while it is attached."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self.texts: list[str] = []
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(record.getMessage())

    def __enter__(self) -> list[str]:
        self._logger.addHandler(self)
        return self.texts

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
        detach_rank_log()


@pytest.mark.parametrize(("name", "part"), EXPECTED.items())
def test_an_expected_message_is_in_the_log_file_alone(name: str, part: str, tmp_path: Path):
    logger = logging.getLogger(name)
    with Shown(logger) as texts:
        logger.warning("%s before the file", part)
        path = attach_rank_log(tmp_path, 0)
        logger.warning("%s in a run", part)
        logger.warning("something else")
    assert texts == ["something else"]
    text = path.read_text()
    assert f"{part} before the file" in text
    assert text.count(f"{part} in a run") == 1


def test_a_logger_that_is_set_to_info_shows_it():
    logger = logging.getLogger("torchao")
    logger.setLevel(logging.INFO)
    try:
        with Shown(logger) as texts:
            logger.warning("Failed to load x.so")
    finally:
        logger.setLevel(logging.NOTSET)
    assert texts == ["Failed to load x.so"]


@pytest.mark.slow
def test_libraries_that_are_imported_on_the_way_say_nothing():
    for name in ("torchao", "deepspeed"):
        pytest.importorskip(name)
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS], capture_output=True, text=True, timeout=120, check=True, cwd=ROOT
    )
    assert done.stdout + done.stderr == ""
