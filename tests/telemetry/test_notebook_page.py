"""What a notebook shows of a run: one output for each cell, with what stays, the newest lines, and the progress."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from raytrainer.telemetry import events
from raytrainer.telemetry.console import Renderer
from raytrainer.telemetry.notebook_page import INTERVAL_S, MOST_LINES, NotebookPage
from tests.telemetry.terminal import Clock


class ZMQInteractiveShell:
    """Named as the shell of a notebook's kernel."""

    execution_count = 1


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> ZMQInteractiveShell:
    shell = ZMQInteractiveShell()
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    return shell


@pytest.fixture
def outputs(monkeypatch: pytest.MonkeyPatch, shell: ZMQInteractiveShell) -> list[list[str]]:
    """The texts of each output, the newest last."""
    told: list[list[str]] = []

    def display(data: dict[str, str], *, raw: bool, display_id: bool) -> Any:
        assert raw
        assert display_id
        texts = [data["text/plain"]]
        told.append(texts)
        return SimpleNamespace(update=lambda newer, raw: texts.append(newer["text/plain"]))

    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace(display=display))
    return told


def test_rows_keep_their_keys_above_them_when_the_first_ones_have_passed(outputs: list[list[str]]):
    page = NotebookPage(clock := Clock())
    for number in range(MOST_LINES + 2):
        clock.now += 1
        keys = "         loss    epoch\n" if number in (0, 12) else ""
        page.keep(f"{keys}{number:3}/40    0.5      1.0", passes=True)
    ((*_, newest),) = outputs
    earlier, keys, row, *_ = newest.splitlines()
    assert earlier == "... 2 earlier lines are in metrics.jsonl and events.jsonl"
    assert keys.split() == ["loss", "epoch"]
    assert row.split() == ["2/40", "0.5", "1.0"]
    assert newest.count("loss") == 2


def test_keys_stand_once_where_the_first_row_shown_has_them(outputs: list[list[str]]):
    page = NotebookPage(clock := Clock())
    for number in range(MOST_LINES + 1):
        clock.now += 1
        page.keep(f"  loss\n{number}" if number in (0, 1) else f"{number}", passes=True)
    ((*_, newest),) = outputs
    assert newest.splitlines()[1:3] == ["  loss", "1"]


def test_newest_lines_and_what_stays_are_shown_and_the_rest_is_counted(outputs: list[list[str]]):
    clock = Clock()
    page = NotebookPage(clock)
    page.keep("a table")
    for number in range(MOST_LINES + 5):
        clock.now += 1
        page.keep(f"line {number}", passes=True)
    page.keep("a warning")
    clock.now += 1
    page.show(" 50% ━")
    (texts,) = outputs
    assert not any("\x1b" in text for text in texts)
    lines = texts[-1].splitlines()
    assert lines[:3] == ["a table", "... 5 earlier lines are in metrics.jsonl and events.jsonl", "line 5"]
    assert lines[-2:] == ["a warning", " 50% ━"]
    page.hide()
    assert texts[-1].splitlines()[-1] == "a warning"


def test_the_output_changes_a_few_times_a_second_and_nothing_is_held_back_at_the_end(
    outputs: list[list[str]],
):
    clock = Clock()
    page = NotebookPage(clock)
    page.show("0%|")
    for number in range(100):
        clock.now += INTERVAL_S / 50
        page.keep(f"line {number}", passes=True)
    (texts,) = outputs
    assert len(texts) <= 4
    page.hide()
    assert texts[-1].splitlines()[-1] == "line 99"


def test_each_cell_has_an_output_of_its_own(outputs: list[list[str]], shell: ZMQInteractiveShell):
    page = NotebookPage(Clock())
    page.keep("of the first")
    shell.execution_count = 2
    page.keep("of the second")
    assert [texts[-1] for texts in outputs] == ["of the first", "of the second"]


def test_an_evaluation_alone_leaves_its_metrics(outputs: list[list[str]]):
    renderer = Renderer(clock=Clock())
    for event in (
        events.PredictionStep(description="Evaluation", done=1, total=1),
        events.PredictionDone(description="Evaluation"),
        events.Logged(step=4, max_steps=4, logs={"eval_loss": 0.25}),
    ):
        renderer.handle(event)
    (texts,) = outputs
    assert texts[-1] == "4/4  eval_loss=0.2500"


def test_a_run_writes_into_its_output_and_nothing_to_the_streams(
    outputs: list[list[str]], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("FORCE_COLOR", "1")  # as kernels do for their streams
    clock = Clock()
    renderer = Renderer(clock=clock)
    rows = [events.EngagedRow(what="workers", requested="2", engaged="2")]
    for event in (
        events.TrainStarted(max_steps=4, first_step=0, num_epochs=1, attempt=0, rows=rows),
        events.StepDone(step=2, max_steps=4, epoch=0.5, samples_per_s=[]),
        events.Logged(step=2, max_steps=4, logs={"loss": 0.5}),
        events.Note(text="worker 1 is slow", level="warning"),
        events.Logged(step=4, max_steps=4, logs={"eval_loss": 0.25}),
        events.TrainEnded(step=4),
    ):
        clock.now += 1
        renderer.handle(event)
    renderer.close()
    (texts,) = outputs
    assert any(" 50% ━" in text for text in texts)
    for part in ("requested", "2/4   0.5000", "warning: worker 1 is slow", "finished"):
        assert part in texts[-1]
    assert texts[-1].count("eval_loss") == 1
    assert "\x1b" not in texts[-1]
    assert capsys.readouterr() == ("", "")
