"""``metrics.jsonl`` and ``events.jsonl``: which lines they get, of whom, and that they never harm a run."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest

import raytrainer
from raytrainer.telemetry.events import (
    CheckpointCommitted,
    EngagedRow,
    Logged,
    Note,
    StepDone,
    TrainEnded,
    TrainFailed,
    TrainStarted,
)
from raytrainer.telemetry.run_files import EVENTS_NAME, METRICS_NAME, VERSION, RunFiles
from tests.parity.twins import make_trainer

HEAD = {"v", "kind", "time", "step", "attempt", "rank", "run"}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    trainer = make_trainer(
        raytrainer,
        directory,
        max_steps=4,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        hub_token="hf_abcdefghijklmnopqrstuv",
    )
    trainer.train()
    return directory


def test_a_run_leaves_a_line_for_each_log_evaluation_and_save(run_dir: Path):
    metrics, events = lines(run_dir / METRICS_NAME), lines(run_dir / EVENTS_NAME)
    # On a slow machine there is progress between two logs.
    assert [(line["kind"], line["step"]) for line in metrics if line["kind"] != "progress"] == [
        ("log", 1),
        ("log", 2),
        ("eval", 2),
        ("log", 3),
        ("log", 4),
        ("eval", 4),
        ("summary", 4),
    ]
    assert [(line["kind"], line["step"]) for line in events] == [
        ("start", 0),
        ("save", 2),
        ("save", 4),
        ("end", 4),
    ]


def test_every_line_has_the_head_of_the_schema(run_dir: Path):
    for line in lines(run_dir / METRICS_NAME) + lines(run_dir / EVENTS_NAME):
        assert set(line) >= HEAD
        assert line["v"] == VERSION
        assert (line["attempt"], line["rank"]) == (0, 0)
        assert len(line["run"]) == 12


def test_the_first_line_tells_what_was_asked_for_and_where(run_dir: Path):
    (start,) = (line for line in lines(run_dir / EVENTS_NAME) if line["kind"] == "start")
    assert start["arguments"]["max_steps"] == 4
    assert start["environment"]["versions"]["raytrainer"] == raytrainer.__version__
    assert any(row["what"] == "workers" for row in start["engaged"]) or start["engaged"]


def test_no_token_is_in_any_file(run_dir: Path):
    for path in run_dir.glob("*.*"):
        assert "hf_abcdef" not in path.read_text(), path.name


def record(directory: Path, *events: object, **options: Any) -> list[dict[str, Any]]:
    files = RunFiles(directory, **{"rank": 0, "run": lambda: ("r", 1)} | options)
    for event in events:
        files.handle(event)
    return lines(directory / METRICS_NAME) + lines(directory / EVENTS_NAME)


STARTED = TrainStarted(
    max_steps=9,
    first_step=3,
    num_epochs=1,
    attempt=2,
    rows=[EngagedRow(what="a", requested="b", engaged="c")],
)


def test_a_driver_writes_only_what_it_tells(tmp_path: Path):
    events = (
        STARTED,
        Logged(step=4, max_steps=9, logs={"loss": 1.0}),
        CheckpointCommitted(step=4, path="p", num_bytes=1, seconds=1.0),
        Note(text="it died", level="warning", kind="restart"),
        Note(text="hm", level="warning"),
        Note(text="so"),
        TrainFailed(type_name="E", text="why"),
        TrainEnded(step=4),
    )
    found = record(tmp_path, *events, rank=None)
    assert [(line["kind"], line["step"], line["attempt"], line["rank"]) for line in found] == [
        (kind, 4, 2, None) for kind in ("restart", "warning", "note", "failed")
    ]


def test_rank_0_beside_a_driver_leaves_to_it_what_it_tells(tmp_path: Path):
    found = record(tmp_path, STARTED, Note(text="x"), TrainFailed(type_name="E", text="y"), tells=False)
    assert [line["kind"] for line in found] == ["start"]


def test_a_log_says_how_fast_and_how_large_the_process_is(tmp_path: Path):
    done = StepDone(step=4, max_steps=9, epoch=0.5, samples_per_s=[1.5, 2.0])
    progress, line = record(tmp_path, done, Logged(step=4, max_steps=9, logs={"loss": float("nan")}))
    assert line["samples_per_s"] == progress["samples_per_s"] == [1.5, 2.0]
    assert progress["memory"]["rss"] > 10**6
    assert line["values"] == {"loss": "NaN"}
    assert line["max_steps"] == 9


def test_steps_that_log_nothing_are_told_of_now_and_then(tmp_path: Path):
    now = [100.0]
    files = RunFiles(tmp_path, rank=0, run=lambda: ("r", 0), clock=lambda: now[0])
    for step in range(100):
        now[0] += 0.25
        files.handle(StepDone(step=step, max_steps=100, epoch=0.0, samples_per_s=[1.0]))
    found = lines(tmp_path / METRICS_NAME)
    assert {line["kind"] for line in found} == {"progress"}
    assert 4 <= len(found) <= 6


def test_a_disk_that_cannot_be_written_ends_the_record_and_not_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        assert record(tmp_path / "file" / "run", STARTED, STARTED) == []
    assert [text for text in caplog.messages if "no longer recorded" in text] == [caplog.messages[0]]


def test_a_run_that_fails_says_so_at_the_end(tmp_path: Path):
    def broken(*_: Any, **__: Any) -> Any:
        raise ValueError("the data are gone")

    trainer = make_trainer(raytrainer, tmp_path, max_steps=4, report_page=False)
    trainer.compute_loss_func = broken
    with pytest.raises(ValueError, match="the data are gone"):
        trainer.train()
    last = lines(tmp_path / EVENTS_NAME)[-1]
    assert (last["kind"], last["error"]) == ("failed", "ValueError")
    assert "the data are gone" in last["text"]


def test_a_log_that_counts_tokens_is_a_log_and_no_summary(tmp_path: Path):
    of_tokens = {"num_input_tokens_seen": 64, "train_runtime": 1.0, "train_tokens_per_second": 64.0}
    final = {"train_runtime": 2.0, "train_loss": 1.0}
    events = (
        Logged(step=4, max_steps=9, logs={"loss": 1.0, **of_tokens}),
        Logged(step=9, max_steps=9, logs=final),
    )
    found = record(tmp_path, *events)
    assert [line["kind"] for line in found] == ["log", "summary"]
