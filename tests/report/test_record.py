"""What is read of a run: which steps count, how attempts ended, also of a copy and of a run that was killed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from raytrainer.report.record import read_record
from raytrainer.telemetry.events import Logged, TrainFailed
from tests.report.runs import WrittenRun, two_deaths


def test_a_step_that_was_done_twice_counts_once(tmp_path: Path):
    two_deaths(tmp_path, 100)
    record = read_record(tmp_path)
    losses = record.series["loss"]
    assert [one.step for one in losses if not one.is_lost] == list(range(1, 101))
    assert [one.step for one in losses if one.is_lost] == [*range(31, 41), *range(51, 61)]


def test_attempts_have_their_causes_and_numbers_of_workers(tmp_path: Path):
    two_deaths(tmp_path, 100)
    record = read_record(tmp_path)
    assert [(one.first_step, one.last_step, one.workers, one.ending) for one in record.attempts] == [
        (0, 40, 4, "restart"),
        (30, 60, 4, "restart"),
        (50, 100, 2, "end"),
    ]
    assert record.attempts[1].cause == "A node was lost."
    assert [one.kind for one in record.happenings] == ["restart", "restart", "resize"]
    assert record.state == "finished"
    assert [(save.step, save.num_bytes, save.is_there) for save in record.saves] == [
        (30, 10**6, True),
        (50, 10**6, True),
    ]


def test_a_copy_of_a_directory_says_the_same(tmp_path: Path):
    two_deaths(tmp_path / "a", 50)
    shutil.copytree(tmp_path / "a", tmp_path / "elsewhere" / "a")
    shutil.rmtree(tmp_path / "a")
    record = read_record(tmp_path / "elsewhere" / "a")
    assert (record.name, record.step, len(record.attempts)) == ("a", 50, 3)


def test_a_run_that_was_killed_is_unfinished(tmp_path: Path):
    run = WrittenRun(tmp_path, 100)
    run.start(0)
    run.steps(0, 20)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"v":1,"kind":"log","time":17')
    record = read_record(tmp_path)
    assert (record.state, record.step, record.max_steps) == ("unfinished", 20, 100)


def test_a_call_that_goes_on_continues_the_one_before(tmp_path: Path):
    run = WrittenRun(tmp_path, 100)
    run.start(0)
    run.steps(0, 20)
    run.run = "two"
    run.start(10)
    run.steps(10, 100)
    run.end()
    record = read_record(tmp_path)
    assert [attempt.ending for attempt in record.attempts] == ["died", "end"]
    assert [one.step for one in record.series["loss"] if not one.is_lost] == list(range(1, 101))


def test_a_call_that_begins_anew_hides_those_before(tmp_path: Path):
    run = WrittenRun(tmp_path, 100)
    run.start(0)
    run.steps(0, 20)
    run.run = "two"
    run.start(0)
    run.steps(0, 10)
    record = read_record(tmp_path)
    assert record.earlier_calls == 1
    assert [one.step for one in record.series["loss"]] == list(range(1, 11))


def test_a_run_without_a_record_is_read_from_its_newest_checkpoint(tmp_path: Path):
    path = tmp_path / "checkpoint-4"
    path.mkdir()
    history = [
        {"step": 2, "loss": 2.0, "epoch": 1.0},
        {"step": 4, "loss": 1.0},
        {"step": 4, "eval_loss": 3.0},
    ]
    state = {
        "global_step": 4,
        "max_steps": 8,
        "log_history": history,
        "best_model_checkpoint": "/x/checkpoint-4",
    }
    (path / "trainer_state.json").write_text(json.dumps(state))
    record = read_record(tmp_path)
    assert [(one.step, one.value, one.time) for one in record.series["loss"]] == [
        (2, 2.0, None),
        (4, 1.0, None),
    ]
    assert (record.step, record.max_steps, record.saves[0].is_best) == (4, 8, True)
    assert record.state == "unfinished"
    (path / "trainer_state.json").write_text(json.dumps(state | {"max_steps": 4, "best_metric": 0.5}))
    whole = read_record(tmp_path)
    assert whole.state == "finished"
    assert whole.best_metric == ("metric", 0.5)


def test_the_end_of_a_long_run_is_read_alone(tmp_path: Path):
    two_deaths(tmp_path, 1000)
    record = read_record(tmp_path, tail_only=True)
    assert len(record.series["loss"]) < 400
    assert (record.step, record.state, len(record.attempts)) == (1000, "finished", 3)


def test_the_number_of_workers_that_an_elastic_run_logs_is_no_curve_beside_that_of_its_attempts(
    tmp_path: Path,
):
    run = WrittenRun(tmp_path, 4)
    run.start(0)
    run.rank.handle(Logged(step=1, max_steps=4, logs={"loss": 1.0, "num_workers": 4}))
    record = read_record(tmp_path)
    assert "loss" in record.series
    assert "num_workers" not in record.series
    assert record.attempts[0].workers == 4


@pytest.mark.parametrize(
    ("error", "text", "expected"),
    [
        ("SystemExit", "143", "The process was told to end (exit status 143)."),
        ("KeyboardInterrupt", "", "Ctrl-C"),
        ("ValueError", "no column", "ValueError: no column"),
    ],
)
def test_the_end_of_a_call_is_told_in_words(tmp_path: Path, error: str, text: str, expected: str):
    run = WrittenRun(tmp_path, 4)
    run.start(0)
    run.driver.handle(TrainFailed(type_name=error, text=text, interrupted=error != "ValueError"))
    assert read_record(tmp_path).happenings[-1].text == expected
