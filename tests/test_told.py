"""What a note tells people, logging does not print again where nobody has set it up."""

from __future__ import annotations

import io
import logging
import sys
from pathlib import Path

import pytest

from raytrainer.loop.notes import tell
from raytrainer.telemetry.events import Note
from raytrainer.telemetry.logfile import attach_rank_log
from tests.telemetry.test_logfile import unconfigured_logging


class Rank:
    """A rank that keeps what it emits."""

    rank = 0

    def __init__(self) -> None:
        self.emitted: list[object] = []

    def emit(self, event: object) -> None:
        self.emitted.append(event)


@unconfigured_logging()
def test_a_note_is_an_event_and_in_the_log_file_and_not_on_stderr(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    path, rank = attach_rank_log(tmp_path, 0), Rank()
    tell(rank, "careful")
    logging.getLogger("raytrainer.somewhere").warning("seen")
    assert rank.emitted == [Note(text="careful", level="warning")]
    assert sys.stderr.getvalue() == "seen\n"
    assert "WARNING raytrainer.loop.notes: careful" in path.read_text()


@unconfigured_logging()
def test_a_handler_of_ray_train_on_a_worker_does_not_print_it_again(tmp_path: Path):
    console = io.StringIO()
    logging.root.addHandler(logging.StreamHandler(console))
    logging.root.setLevel(logging.INFO)
    path = attach_rank_log(tmp_path, 0)
    tell(Rank(), "careful")
    logging.getLogger("torchao").warning("Failed to load x.so")
    logging.getLogger("raytrainer.somewhere").warning("seen")
    assert console.getvalue() == "seen\n"
    assert "careful" in path.read_text()
    assert "x.so" in path.read_text()


@unconfigured_logging()
def test_handlers_of_the_user_get_it_as_before():
    printed = io.StringIO()
    logging.root.addHandler(logging.StreamHandler(printed))
    tell(Rank(), "careful")
    assert printed.getvalue() == "careful\n"
