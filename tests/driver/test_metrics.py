"""Which numbers an event sets, and that Ray exports them."""

from __future__ import annotations

import contextlib
import re
import time
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from raytrainer.driver import metrics as exporting
from raytrainer.driver.metrics import SWITCH, RaySink, RunMetrics, exports
from raytrainer.telemetry.events import (
    CheckpointCommitted,
    Logged,
    StepDone,
    TrainStarted,
)


class Sink:
    """Keeps what it gets."""

    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.labels: list[dict[str, str]] = []

    def set(self, name: str, value: float, **labels: str) -> None:
        self.values[name if "metric" not in labels else f"{name}:{labels['metric']}"] = value
        self.labels.append(labels)

    def add(self, name: str, value: float, **labels: str) -> None:
        self.set(name, self.values.get(name, 0.0) + value, **labels)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def metrics_of(*events: object, name: str | None = "mine") -> Sink:
    sink = Sink()
    metrics = make(sink, name=name)
    for event in events:
        metrics.handle(event)
    return sink


def make(sink: Sink, clock: Clock | None = None, name: str | None = "mine") -> RunMetrics:
    args = cast("Any", SimpleNamespace(run_name=name, output_dir="runs/one"))
    return RunMetrics(args, sink, clock or Clock())


STARTED = TrainStarted(max_steps=9, first_step=4, num_epochs=1, attempt=2, rows=[], num_workers=3)


def test_a_start_says_where_the_run_stands_and_on_how_many_workers() -> None:
    values = metrics_of(STARTED).values
    assert values == {
        "raytrainer_training": 1,
        "raytrainer_step": 4,
        "raytrainer_max_steps": 9,
        "raytrainer_workers": 3,
        "raytrainer_restarts": 2,
        "raytrainer_saves": 0,
        "raytrainer_save_stall_seconds": 0,
    }


def test_counters_are_there_before_the_first_save_and_another_attempt_does_not_take_them_back() -> None:
    saved = CheckpointCommitted(step=5, path="p", num_bytes=7, seconds=1.5)
    values = metrics_of(STARTED, saved, STARTED).values
    assert (values["raytrainer_saves"], values["raytrainer_save_stall_seconds"]) == (1, 1.5)


def test_the_speed_is_that_of_all_workers() -> None:
    step = StepDone(step=5, max_steps=9, epoch=0.5, samples_per_s=[2.0, 3.0])
    assert metrics_of(step).values["raytrainer_samples_per_second"] == 5


def test_logs_become_gauges_and_an_evaluation_is_labelled_by_metric() -> None:
    training = Logged(
        step=1, max_steps=9, logs={"loss": 0.5, "grad_norm": 2.0, "learning_rate": 1e-3, "mine": 3}
    )
    evaluation = Logged(
        step=1, max_steps=9, logs={"eval_loss": 0.25, "eval_f1": 0.5, "epoch": 1.0, "eval_text": "no"}
    )
    assert metrics_of(training, evaluation).values == {
        "raytrainer_step": 1,
        "raytrainer_loss": 0.5,
        "raytrainer_grad_norm": 2.0,
        "raytrainer_learning_rate": 1e-3,
        "raytrainer_evaluation:eval_loss": 0.25,
        "raytrainer_evaluation:eval_f1": 0.5,
    }


def test_tokens_are_counted_between_two_logs() -> None:
    sink, clock = Sink(), Clock()
    metrics = make(sink, clock)
    for tokens, at in ((100, 1000.0), (400, 1002.0)):
        clock.now = at
        metrics.handle(Logged(step=1, max_steps=9, logs={"loss": 1.0, "num_input_tokens_seen": tokens}))
    assert sink.values["raytrainer_tokens_per_second"] == 150


def test_commits_add_up_and_leave_the_time_of_the_newest() -> None:
    commits = [CheckpointCommitted(step=step, path="p", num_bytes=7, seconds=1.5) for step in (2, 4)]
    assert metrics_of(*commits).values == {
        "raytrainer_last_checkpoint_timestamp_seconds": 1000.0,
        "raytrainer_last_checkpoint_step": 4,
        "raytrainer_last_checkpoint_bytes": 7,
        "raytrainer_saves": 2,
        "raytrainer_save_stall_seconds": 3.0,
    }


def test_a_call_that_failed_no_longer_trains() -> None:
    sink = Sink()
    with contextlib.suppress(OSError), make(sink) as metrics:
        metrics.handle(STARTED)
        raise OSError("no disk")
    assert sink.values["raytrainer_training"] == 0


def test_a_call_that_never_trained_exports_nothing_at_its_end() -> None:
    sink = Sink()
    with make(sink):
        pass
    assert sink.values == {}


def test_gauges_are_set_again_because_ray_forgets_them_and_counters_are_not() -> None:
    sink = Sink()
    metrics = make(sink)
    metrics.handle(CheckpointCommitted(step=2, path="p", num_bytes=7, seconds=1.5))
    metrics.handle(Logged(step=2, max_steps=9, logs={"eval_loss": 0.25}))
    expected = dict(sink.values)
    sink.values.clear()
    metrics.repeat()
    counters = {"raytrainer_saves", "raytrainer_save_stall_seconds"}
    assert sink.values == {name: value for name, value in expected.items() if name not in counters}


@pytest.mark.parametrize(("name", "label"), [("mine", "mine"), (None, "runs/one")])
def test_a_run_is_labelled_by_its_name_or_its_directory(name: str | None, label: str) -> None:
    assert {labels["run"] for labels in metrics_of(STARTED, name=name).labels} == {label}


def test_a_sink_that_fails_costs_no_run(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Sink):
        def set(self, name: str, value: float, **labels: str) -> None:
            raise OSError("no metrics today")

    make(Broken()).handle(STARTED)


def exported(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        return answer.read().decode()


def numbers_of(run: str, text: str) -> dict[str, float]:
    """Name of a metric, with that of an evaluation -> its value."""
    found: dict[str, float] = {}
    for line in text.splitlines():
        if line.startswith("ray_raytrainer_") and f'run="{run}"' in line:
            name, _, rest = line.partition("{")
            labels, _, value = rest.rpartition(" ")
            metric = re.search('metric="([^"]+)"', labels)
            found[name if metric is None else f"{name} {metric[1]}"] = float(value)
    return found


@pytest.mark.parametrize(
    ("switch", "private", "expected"),
    [(None, True, False), (None, False, True), ("0", False, False), ("1", True, True), ("", False, True)],
)
def test_numbers_are_exported_in_a_cluster_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, switch: str | None, private: bool, expected: bool
) -> None:
    monkeypatch.setattr(exporting, "is_private", lambda: private)
    monkeypatch.delenv(SWITCH, raising=False)
    if switch is not None:
        monkeypatch.setenv(SWITCH, switch)
    assert exports() is expected


def test_whether_they_are_is_decided_when_ray_has_been_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    sink, is_joined = Sink(), False
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(exporting, "_ray_sink", lambda: sink)
    monkeypatch.setattr(exporting, "is_private", lambda: not is_joined)
    followed = RunMetrics(cast("Any", SimpleNamespace(run_name=None, output_dir="runs/one")))
    is_joined = True
    followed.handle(STARTED)
    assert sink.values["raytrainer_workers"] == 3


def test_a_label_shows_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = metrics_of(STARTED, name="s3://me:of-nobody@host/runs").labels
    assert labels
    assert "of-nobody" not in str(labels)


@pytest.mark.ray
@pytest.mark.timeout(120)
@pytest.mark.usefixtures("ray_cluster")
def test_ray_exports_the_numbers_of_a_run_in_a_cluster_without_being_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SWITCH, raising=False)
    monkeypatch.setattr(exporting, "is_private", lambda: False)
    import ray

    import raytrainer
    from tests.parity.twins import make_trainer

    begun = RunMetrics(cast("Any", SimpleNamespace(run_name="begun")), RaySink())
    begun.handle(STARTED)

    trainer = make_trainer(
        raytrainer,
        tmp_path,
        num_ranks=2,
        max_steps=4,
        save_steps=2,
        save_strategy="steps",
        eval_strategy="steps",
        eval_steps=2,
        run_name="exported",
    )
    trainer.train()
    (port,) = {node["MetricsExportPort"] for node in ray.nodes() if node["Alive"]}
    # Other runs of this Ray are exported too, and a number appears some seconds after it was set.
    deadline = time.monotonic() + 60
    while (values := numbers_of("exported", exported(port))).get("ray_raytrainer_saves_total") != 2:
        assert time.monotonic() < deadline, values
        time.sleep(0.5)
    trainer.end()
    assert values["ray_raytrainer_step"] == 4
    assert values["ray_raytrainer_workers"] == 2
    assert values["ray_raytrainer_save_stall_seconds_total"] > 0
    assert values["ray_raytrainer_evaluation eval_loss"] > 0
    before_a_save = numbers_of("begun", exported(port))
    assert before_a_save["ray_raytrainer_saves_total"] == pytest.approx(0, abs=1e-300)
    assert before_a_save["ray_raytrainer_save_stall_seconds_total"] == pytest.approx(0, abs=1e-300)
