"""Which streams get styles, which marks they can show, and what rich draws as text."""

from __future__ import annotations

import subprocess
import sys

import pytest
from rich.table import Table
from rich.text import Text

from raytrainer.telemetry.paint import ASCII, UNICODE, Paint, drawn, glyphs_for, is_terminal, wants_style
from tests.telemetry.terminal import Stream

TERMINAL, FILE = Stream(is_terminal=True), Stream()


@pytest.mark.parametrize(
    ("environment", "on_terminal", "in_file"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)
def test_the_environment_says_who_gets_styles(environment, on_terminal, in_file, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert (wants_style(TERMINAL), wants_style(FILE)) == (on_terminal, in_file)


def test_forced_colors_make_no_terminal_of_a_file(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert not is_terminal(FILE)


@pytest.mark.parametrize(
    ("encoding", "glyphs"), [("utf-8", UNICODE), ("UTF8", UNICODE), ("ascii", ASCII), ("cp1252", ASCII)]
)
def test_marks_follow_the_encoding(encoding, glyphs):
    assert glyphs_for(Stream(encoding=encoding)) is glyphs


def test_without_styles_text_stays_as_it_is():
    assert Paint(on=False)("bold red", "nan") == "nan"
    assert drawn(Text("nan", style="bold red"), width=80, paint=Paint(on=False)) == "nan"


def test_what_rich_draws_does_not_follow_the_environment(monkeypatch):
    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("FORCE_COLOR", "1")
    table = Table(box=UNICODE.box)
    table.add_column("x" * 40)
    text = drawn(table, width=60, paint=Paint(on=False))
    assert "x" * 40 in text
    assert "\x1b" not in text
    assert "\x1b[1m" in drawn(table, width=60, paint=Paint(on=True))


def test_lines_end_without_blanks():
    table = Table(box=None)
    table.add_column("a")
    table.add_row("b" * 9)
    assert all(line == line.rstrip() for line in drawn(table, width=60, paint=Paint(on=False)).split("\n"))


WORKER = """
import sys
from raytrainer import Trainer, TrainingArguments
import raytrainer.driver.workers, raytrainer.worker.main, raytrainer.worker.session, raytrainer.worker.train_task
assert "rich" not in sys.modules, [name for name in sys.modules if name.startswith("rich")]
"""


@pytest.mark.slow
def test_who_shows_nothing_does_not_import_rich():
    done = subprocess.run(
        [sys.executable, "-c", WORKER], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
