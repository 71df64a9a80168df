"""Which spans a call has, that an OTLP endpoint gets them, and that no run waits for it."""

from __future__ import annotations

import builtins
import os
import random
import signal
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import TrainerCallback

import raytrainer
from raytrainer.driver import traced_calls
from raytrainer.driver.traced_calls import traced
from raytrainer.driver.traces import RunTrace
from raytrainer.telemetry import otlp
from raytrainer.telemetry.events import (
    Busy,
    CheckpointCommitted,
    Logged,
    Note,
    Phase,
    PredictionDone,
    TrainEnded,
    TrainFailed,
    TrainStarted,
)
from tests.parity.twins import make_trainer
from tests.telemetry.otlp_receiver import Receiver, grpc_receiver, receiver

pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture(autouse=True)
def _as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> Generator[None]:
    for name in [name for name in os.environ if name.startswith("OTEL_") or name == "TRACEPARENT"]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(traced_calls, "_told", set[str]())
    yield
    otlp.open_traces.cache_clear()


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Generator[Receiver]:
    with receiver() as found:
        monkeypatch.setenv(ENDPOINT, found.url)
        yield found


def flush() -> None:
    """All that has ended is sent."""
    otlp.open_traces(os.environ[ENDPOINT])._provider.force_flush()


class Terminal(list[str]):
    """Keeps what is told."""

    def __call__(self, event: object) -> None:
        assert isinstance(event, Note)
        self.append(event.text)


ARGS = cast("Any", SimpleNamespace(run_name=None, output_dir="runs/one"))
STARTED = TrainStarted(max_steps=9, first_step=0, num_epochs=1, attempt=0, rows=[], num_workers=3, at=110.0)
RESTART = Note(text="rank 1 died", level="warning", kind="restart", at=130.0)


def follow(
    endpoint: Receiver, *events: object, error: BaseException | None = None, ended: float = 200.0
) -> Terminal:
    """The spans of a call that began at 100 s."""
    told = Terminal()
    trace = RunTrace(ARGS, "train", otlp.open_traces(endpoint.url), told, began=100.0)
    for event in events:
        trace.handle(event)
    trace.end(error, ended)
    flush()
    return told


def test_the_phases_of_a_run_arrive_as_one_tree(endpoint: Receiver, tmp_path: Path) -> None:
    trainer = make_trainer(
        raytrainer,
        tmp_path,
        max_steps=4,
        save_strategy="steps",
        save_steps=2,
        eval_strategy="steps",
        eval_steps=4,
    )
    trainer.train()
    flush()
    train, attempt, training = (endpoint.one(name) for name in ("train", "attempt", "training"))
    assert (train.parent, endpoint.below(train)) == ("", ["attempt"])
    assert endpoint.below(attempt) == ["start-up", "training"]
    assert endpoint.below(training) == ["save", "evaluation", "save"]
    assert [endpoint.below(save) for save in endpoint.named("save")] == [["writing", "hashing", "commit"]] * 2
    assert [save.facts["raytrainer.step"] for save in endpoint.named("save")] == [2, 4]
    assert endpoint.one("evaluation").facts["raytrainer.step"] == 4
    assert endpoint.one("evaluation").facts["raytrainer.eval_loss"] > 0
    assert train.facts["raytrainer.output_dir"] == str(tmp_path)
    assert {span.error for span in endpoint.spans} == {None}


def test_a_span_lies_within_the_one_above(endpoint: Receiver, tmp_path: Path) -> None:
    make_trainer(raytrainer, tmp_path, max_steps=2, save_strategy="steps", save_steps=1).train()
    flush()
    spans = {span.id: span for span in endpoint.spans}
    pairs = [(span, spans[span.parent]) for span in endpoint.spans if span.parent]
    assert len(pairs) > 5
    assert [
        (span.name, above.name)
        for span, above in pairs
        if span.began < above.began - 0.01 or span.ended > above.ended + 0.01
    ] == []


def test_more_steps_make_no_more_spans(endpoint: Receiver, tmp_path: Path) -> None:
    for steps in (2, 12):
        make_trainer(raytrainer, tmp_path / str(steps), max_steps=steps).train()
    flush()
    numbers = [sum(span.trace == run.trace for span in endpoint.spans) for run in endpoint.named("train")]
    assert numbers[0] == numbers[1] == 4


def test_calls_after_training_are_traces_of_their_own(endpoint: Receiver, tmp_path: Path) -> None:
    trainer = make_trainer(raytrainer, tmp_path, max_steps=1)
    trainer.train()
    trainer.evaluate()
    trainer.predict(trainer.eval_dataset)
    flush()
    for call, phase in (("evaluate", "evaluation"), ("predict", "prediction")):
        root = endpoint.one(call)
        (attempt,) = (span for span in endpoint.named("attempt") if span.parent == root.id)
        assert endpoint.below(attempt) == ["start-up", phase]


def test_a_save_beside_training_has_its_copy_and_its_commit(endpoint: Receiver, tmp_path: Path) -> None:
    make_trainer(
        raytrainer, tmp_path, max_steps=3, save_strategy="steps", save_steps=2, async_save=True
    ).train()
    flush()
    save = endpoint.named("save")[0]
    assert endpoint.below(save) == ["staging", "writing", "commit"]
    assert save.facts["raytrainer.beside_training"] is True


def test_what_is_open_when_a_worker_dies_ends_with_the_cause(endpoint: Receiver) -> None:
    follow(
        endpoint,
        STARTED,
        Busy(what="evaluation", at=115.0),
        PredictionDone(description="Evaluation", at=118.0),
        Logged(step=4, max_steps=9, logs={"eval_loss": 0.5}, at=119.0),
        Busy(what="a save", at=120.0),
        RESTART,
        Busy(what="the set-up of the workers", at=140.0),
        replace(STARTED, attempt=1, resumed_from="runs/one/checkpoint-2", first_step=2, at=150.0),
        TrainEnded(step=9, at=190.0),
    )
    first, second = endpoint.named("attempt")
    assert (first.began, first.ended, first.error) == (100.0, 130.0, "rank 1 died")
    assert (second.began, second.ended, second.error) == (130.0, 200.0, None)
    assert endpoint.below(first) == ["start-up", "training"]
    assert endpoint.below(second) == ["restart", "training"]
    save = endpoint.one("save")
    assert (save.began, save.ended, save.error) == (120.0, 130.0, "rank 1 died")
    assert (endpoint.one("evaluation").ended, endpoint.one("evaluation").error) == (119.0, None)
    assert second.facts["raytrainer.resumed_from"] == "runs/one/checkpoint-2"
    assert endpoint.one("train").facts["raytrainer.attempts"] == 2


def test_a_start_with_other_workers_is_a_resize(endpoint: Receiver) -> None:
    moves = replace(RESTART, kind="move", text="Saved step 4")
    follow(endpoint, STARTED, moves, replace(STARTED, attempt=1, num_workers=2, at=150.0))
    first, second = endpoint.named("attempt")
    assert (first.error, first.facts["raytrainer.cause"]) == (None, "Saved step 4")
    assert endpoint.below(second) == ["resize", "training"]


def test_a_run_that_fails_says_why(endpoint: Receiver) -> None:
    failed = TrainFailed(type_name="ValueError", text="no such column", at=120.0)
    follow(endpoint, STARTED, failed, error=ValueError("no such column"))
    assert endpoint.one("train").error == "ValueError: no such column"
    assert endpoint.one("attempt").facts["raytrainer.cause"] == "ValueError: no such column"


def test_an_interrupt_is_no_error(endpoint: Receiver) -> None:
    follow(endpoint, STARTED, error=KeyboardInterrupt())
    assert endpoint.one("train").error is None
    assert endpoint.one("train").facts["raytrainer.interrupted"] is True


def test_what_rank_0_went_through_is_below_the_start(endpoint: Receiver) -> None:
    phases = [
        Phase(name="of the call before", began=80.0, ended=90.0),
        Phase(name="set up", began=104.0, ended=106.0),
    ]
    follow(endpoint, replace(STARTED, phases=phases))
    assert endpoint.below(endpoint.one("start-up")) == ["set up"]


def test_spans_draw_nothing_from_the_generator_that_a_run_seeds(endpoint: Receiver) -> None:
    follow(endpoint, STARTED)
    random.seed(0)
    state = random.getstate()
    follow(endpoint, STARTED)
    assert len(endpoint.named("train")) == 2
    assert random.getstate() == state


def test_runs_of_one_seed_have_traces_of_their_own(endpoint: Receiver) -> None:
    for _ in range(2):
        random.seed(0)
        follow(endpoint, STARTED)
    assert len({span.trace for span in endpoint.named("train")}) == 2


def test_no_secret_is_sent(endpoint: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = "hf_" + "a1B2" * 6
    saved = CheckpointCommitted(step=1, path=f"s3://me:{secret}@host/x", num_bytes=1, seconds=1.0)
    follow(
        endpoint, STARTED, saved, replace(RESTART, text=f"token {secret}"), error=OSError(f"?token={secret}")
    )
    assert len(endpoint.spans) >= 5
    assert secret.encode() not in b"".join(endpoint.bodies)


def test_a_run_belongs_to_the_span_that_the_environment_names(
    endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACEPARENT", f"00-{'ab' * 16}-{'cd' * 8}-01")
    follow(endpoint, STARTED)
    assert (endpoint.one("train").trace, endpoint.one("train").parent) == ("ab" * 16, "cd" * 8)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "raytrainer"),
        ({"OTEL_SERVICE_NAME": "nightly"}, "nightly"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=of-team,team=nlp"}, "of-team"),
    ],
)
def test_the_service_has_the_name_that_the_environment_gives(
    endpoint: Receiver, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    follow(endpoint, STARTED)
    assert endpoint.one("train").resource["service.name"] == expected


def test_the_endpoint_of_traces_alone_is_used_as_it_is(
    endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{endpoint.url}/mine")
    follow(endpoint, STARTED)
    assert set(endpoint.paths) == {"/mine"}


@pytest.mark.parametrize(
    ("name", "value"),
    [("OTEL_SDK_DISABLED", "true"), ("OTEL_TRACES_EXPORTER", "none"), (ENDPOINT, "")],
)
def test_nothing_is_made_where_traces_are_off(
    endpoint: Receiver, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    told = Terminal()
    with traced(ARGS, "train", told) as trace:
        assert trace is None
    assert (told, endpoint.spans) == ([], [])


def test_a_missing_package_is_told_once_with_what_installs_it(
    endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> Any:
        raise ModuleNotFoundError("No module named 'opentelemetry.exporter'", name="opentelemetry.exporter")

    monkeypatch.setattr(otlp, "_exporter", missing)
    told = Terminal()
    for _ in range(2):
        with traced(ARGS, "train", told) as trace:
            assert trace is None
    (text,) = told
    assert "pip install 'raytrainer[otel]'" in text
    assert endpoint.url in text


def test_a_protocol_that_nobody_speaks_is_told(endpoint: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "carrier-pigeon")
    told = Terminal()
    with traced(ARGS, "train", told) as trace:
        assert trace is None
    assert "http/protobuf" in told[0]


def test_an_endpoint_that_refuses_is_told_once_and_costs_no_run(
    endpoint: Receiver, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    endpoint.status = 400
    trainer = make_trainer(raytrainer, tmp_path, max_steps=2)
    for _ in range(2):
        trainer.train()
        flush()
    trainer.evaluate()
    assert trainer.state.global_step == 2
    assert len(endpoint.paths) >= 2
    shown = capsys.readouterr()
    assert (shown.out + shown.err).count("traces are not sent") == 1
    assert "code: 400" in shown.out + shown.err
    assert [record for record in caplog.records if record.name.startswith("opentelemetry")] == []


def test_no_run_waits_for_an_endpoint_that_does_not_answer(endpoint: Receiver, tmp_path: Path) -> None:
    endpoint.hold.set()
    try:
        make_trainer(raytrainer, tmp_path, max_steps=2).train()
        assert endpoint.paths == []  # It has answered nothing, and train() is over.
    finally:
        endpoint.release()


@pytest.fixture
def over_grpc(monkeypatch: pytest.MonkeyPatch) -> Generator[Receiver]:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.grpc")
    with grpc_receiver() as found:
        monkeypatch.setenv(ENDPOINT, found.url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        yield found


def test_spans_go_over_grpc_where_that_is_asked_for(over_grpc: Receiver) -> None:
    assert follow(over_grpc, STARTED, RESTART) == []
    assert over_grpc.paths == ["grpc"]
    assert over_grpc.below(over_grpc.one("train")) == ["attempt", "attempt"]
    assert {span.trace for span in over_grpc.spans} == {over_grpc.one("train").trace}


def test_what_grpc_says_of_an_endpoint_that_is_down_is_told_in_a_word() -> None:
    down = "down: UNKNOWN: ipv4:127.0.0.1:9: Failed to connect to remote host: Connection refused."
    assert (
        otlp._in_short(f"Transient error StatusCode.UNAVAILABLE, retrying in 0.9s. {down}")
        == "Connection refused"
    )
    assert otlp._in_short("Failed to export traces, error code: StatusCode.UNIMPLEMENTED") == (
        "StatusCode.UNIMPLEMENTED"
    )


def test_the_calls_of_trials_are_below_their_sweep(
    endpoint: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced_calls.traced_sweep(ARGS, pytest.fail) as traceparent:
        assert traceparent is not None
    monkeypatch.setenv("TRACEPARENT", traceparent)  # As the process of a trial has it.
    follow(endpoint, STARTED)
    assert endpoint.below(endpoint.one("sweep")) == ["train"]
    assert endpoint.one("sweep").facts == {"raytrainer.run": "runs/one"}
    assert endpoint.one("train").trace == endpoint.one("sweep").trace


def test_a_sweep_without_an_endpoint_has_no_span() -> None:
    with traced_calls.traced_sweep(ARGS, pytest.fail) as traceparent:
        assert traceparent is None


def test_a_process_without_an_endpoint_imports_nothing_of_opentelemetry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = builtins.__import__

    def importing(name: str, *args: Any, **kwargs: Any) -> Any:
        assert not name.startswith("opentelemetry")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", importing)
    with traced(ARGS, "train", Terminal()) as trace:
        assert trace is None


class KillRank1(TrainerCallback):
    """Kills rank 1 after a step, once."""

    def __init__(self, mark: Path) -> None:
        self.mark = str(mark)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if args.process_index == 1 and state.global_step == 3 and not os.path.exists(self.mark):
            Path(self.mark).touch()
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.ray
@pytest.mark.faults
@pytest.mark.usefixtures("ray_cluster")
def test_a_killed_worker_takes_no_span_with_it(endpoint: Receiver, tmp_path: Path) -> None:
    trainer = make_trainer(
        raytrainer, tmp_path / "run", num_ranks=2, max_steps=4, save_strategy="steps", save_steps=2
    )
    trainer.add_callback(KillRank1(tmp_path / "killed"))
    trainer.train()
    trainer.end()
    flush()
    first, second = endpoint.named("attempt")
    assert "rank 1 died" in str(first.error)
    assert (second.error, second.facts["raytrainer.first_step"]) == (None, 2)
    assert endpoint.below(first) == ["start-up", "training"]
    assert endpoint.below(second) == ["restart", "training"]
    assert "set up" in endpoint.below(endpoint.one("restart"))
    assert [save.facts["raytrainer.step"] for save in endpoint.named("save")] == [2, 4]
    assert endpoint.one("train").error is None
