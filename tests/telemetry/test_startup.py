"""The phases of a start: in which file they are, on which axis, and what a person reads."""

from __future__ import annotations

import json
import os
import time

import pytest

import raytrainer
from raytrainer.telemetry import startup
from raytrainer.telemetry.startup import Phases, Span, read_spans, table, write_spans, write_trace
from tests.parity.twins import make_model, make_samples


def span(process: str, phase: str, began: float, ended: float, attempt: int = 0) -> Span:
    return Span(process=process, phase=phase, began=began, ended=ended, attempt=attempt)


SPANS = [
    span("driver", "script", 100.0, 104.0),
    span("rank 0", "set up", 103.0, 104.5),
    span("rank 0", "set up", 110.0, 110.5, attempt=1),
]


def test_a_phase_ends_with_its_block_also_if_that_fails():
    phases = Phases("driver")
    before = time.time()
    with pytest.raises(ValueError, match="wrong"), phases.phase("waits"):
        raise ValueError("wrong")
    (found,) = phases.take()
    assert (found.process, found.phase) == ("driver", "waits")
    assert before <= found.began <= found.ended <= time.time()
    assert phases.take() == []


def test_the_first_phase_begins_with_the_process():
    assert Phases().last == pytest.approx(startup.process_began(os.getpid()))


def test_phases_of_all_processes_come_back_in_their_order(tmp_path):
    write_spans(tmp_path, SPANS[1:])
    write_spans(tmp_path, SPANS[:1])
    assert sorted(path.name for path in (tmp_path / "logs").iterdir()) == [
        "startup-driver.jsonl",
        "startup-rank-0.jsonl",
    ]
    assert read_spans(tmp_path) == SPANS
    startup.forget_spans(tmp_path)
    assert read_spans(tmp_path) == []


def test_the_trace_has_a_track_for_each_process_and_microseconds_since_the_first_phase(tmp_path):
    events = json.loads(write_trace(tmp_path, SPANS).read_text())["traceEvents"]
    names = {event["pid"]: event["args"]["name"] for event in events if event["name"] == "process_name"}
    found = [(names[one["pid"]], one["tid"], one["ts"], one["dur"]) for one in events if one["ph"] == "X"]
    assert found == [
        ("driver", 0, 0, 4_000_000),
        ("rank 0", 0, 3_000_000, 1_500_000),
        ("rank 0", 1, 10_000_000, 500_000),
    ]


def test_the_table_has_80_columns_and_a_line_for_each_phase():
    lines = table(SPANS).splitlines()
    assert max(map(len, lines)) <= 80
    assert [line.split()[0] for line in lines[1:]] == ["driver", "rank", "set"]
    assert "3.00   4.50   1.50" in lines[2]


def test_a_process_that_trains_itself_writes_its_trace(tmp_path, monkeypatch):
    monkeypatch.setattr(startup.here, "process", "")
    args = raytrainer.TrainingArguments(
        str(tmp_path), num_workers=0, max_steps=2, debug="startup", report_to="none", save_strategy="no"
    )
    raytrainer.Trainer(model=make_model(), args=args, train_dataset=make_samples()).train()
    events = json.loads((tmp_path / startup.TRACE_NAME).read_text())["traceEvents"]
    assert [one["name"] for one in events if one["ph"] == "X"] == ["imports, data and model", "first step"]


def test_a_bucket_is_refused_because_nothing_can_be_appended_there():
    with pytest.raises(raytrainer.ConfigurationError, match=r"startup.*is a bucket"):
        raytrainer.TrainingArguments("s3://bucket/run", debug="startup")
