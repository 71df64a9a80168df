"""Reporters: what they wrote is read back; a resumed run stays one run; a missing package is named."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import transformers
from transformers.integrations import integration_utils

import raytrainer
from raytrainer.callbacks import reporters
from raytrainer.callbacks.reporters import absolute_uri
from raytrainer.errors import ConfigurationError
from tests.parity.twins import make_trainer

OPTIONS: dict[str, Any] = {
    "max_steps": 4,
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "run_name": "the-run",
}


@pytest.fixture(autouse=True)
def no_settings_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TENSORBOARD_LOGGING_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID", "TRACKIO_SPACE_ID"):
        monkeypatch.delenv(name, raising=False)


def losses(trainer: Any) -> list[tuple[int, float]]:
    return [(log["step"], log["loss"]) for log in trainer.state.log_history if "loss" in log]


def train_then_resume(directory: Path, reporter: str, **options: Any) -> tuple[Any, Any]:
    """Train once, and resume from step 2 with another trainer."""
    first = make_trainer(raytrainer, directory, **{**OPTIONS, **options, "report_to": reporter})
    first.train()
    second = make_trainer(raytrainer, directory, **{**OPTIONS, **options, "report_to": reporter})
    second.train(resume_from_checkpoint=str(directory / "checkpoint-2"))
    return first, second


# ---- TensorBoard ------------------------------------------------------------------------------------------------


def scalars(directory: Path, tag: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(directory))
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(tag)]


@pytest.mark.filterwarnings("ignore:`logging_dir`")
def test_tensorboard_has_every_step_once_also_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    wished = tmp_path / "tb"
    first, _ = train_then_resume(tmp_path / "run", "tensorboard", logging_dir=str(wished))
    found = scalars(wished, "train/loss")
    assert [step for step, _ in found] == [1, 2, 3, 4]
    assert found == [(step, pytest.approx(loss)) for step, loss in losses(first)]
    assert [step for step, _ in scalars(wished, "eval/loss")] == [4]
    assert not (tmp_path / "run" / "runs").exists()


def test_tensorboard_goes_on_in_the_directory_of_the_run(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    _, second = train_then_resume(tmp_path, "tensorboard")
    (directory,) = (tmp_path / "runs").iterdir()
    second.evaluate()
    assert [step for step, _ in scalars(directory, "train/loss")] == [1, 2, 3, 4]
    assert [step for step, _ in scalars(directory, "eval/loss")] == [4, 4]
    assert list((tmp_path / "runs").iterdir()) == [directory]


def test_a_new_run_in_the_same_directory_is_a_new_run(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("tensorboard")
    names = iter(["runs/a", "runs/b"])
    monkeypatch.setattr(integration_utils, "default_logdir", lambda: next(names))
    for _ in range(2):
        make_trainer(raytrainer, tmp_path, max_steps=1, report_to="tensorboard").train()
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"a", "b"}


@pytest.mark.filterwarnings("ignore:`logging_dir`")
def test_a_directory_of_one_trainer_is_not_that_of_the_next(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    for name, given in (("a", {"logging_dir": str(tmp_path / "tb")}), ("b", {})):
        make_trainer(raytrainer, tmp_path / name, max_steps=1, report_to="tensorboard", **given).train()
    assert (tmp_path / "b" / "runs").is_dir()


# ---- MLflow -----------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    package = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    package.set_tracking_uri((tmp_path / "mlruns").as_uri())
    yield package
    while package.active_run():
        package.end_run()
    package.set_tracking_uri(None)


@pytest.mark.slow
def test_mlflow_has_one_finished_run_also_after_a_resume_and_an_evaluation(
    tmp_path: Path, mlflow: Any
) -> None:
    first, second = train_then_resume(tmp_path / "run", "mlflow")
    second.evaluate()
    client = mlflow.MlflowClient()
    (run,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert run.info.run_name == "the-run"
    assert run.info.status == "FINISHED"
    assert run.data.params["max_steps"] == "4"
    history = {m.step: m.value for m in client.get_metric_history(run.info.run_id, "loss")}
    assert history == {step: pytest.approx(loss) for step, loss in losses(first)}
    assert {m.step for m in client.get_metric_history(run.info.run_id, "eval_loss")} == {4}
    record = json.loads((tmp_path / "run" / "logs" / "reporters.json").read_text())
    assert record["names"] == {"mlflow": run.info.run_id}


@pytest.mark.slow
def test_a_second_training_is_a_second_mlflow_run(tmp_path: Path, mlflow: Any) -> None:
    trainer = make_trainer(raytrainer, tmp_path / "run", max_steps=1, report_to="mlflow")
    trainer.train()
    trainer.train()
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    assert [run.info.status for run in runs] == ["FINISHED", "FINISHED"]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ("mlruns", "{here}/mlruns"),
        ("file:mlruns", "file://{here}/mlruns"),
        ("sqlite:///runs.db", "sqlite:///{here}/runs.db"),
        ("sqlite:////srv/runs.db", "sqlite:////srv/runs.db"),
        ("http://tracking:5000", "http://tracking:5000"),
        ("databricks", "databricks"),
    ],
)
def test_a_relative_uri_means_the_users_directory(given: str, says: str) -> None:
    assert absolute_uri(given) == says.format(here=Path.cwd())


def test_what_the_user_set_is_sent_with_the_reporter(mlflow: Any, monkeypatch: Any) -> None:
    import cloudpickle

    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "trials")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    wished = mlflow.get_tracking_uri()
    shipped = cloudpickle.dumps(reporters.MLflowReporter())
    assert b"secret" not in shipped
    arrived = cloudpickle.loads(shipped)
    assert arrived._settings["MLFLOW_TRACKING_URI"] == wished
    assert arrived._settings["MLFLOW_EXPERIMENT_NAME"] == "trials"


# ---- Trackio ----------------------------------------------------------------------------------------------------


@pytest.fixture
def trackio_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Trackio's directory; it is read from the environment when Trackio is imported."""
    pytest.importorskip("trackio")
    import sys

    import trackio  # noqa: F401 - its modules are looked through

    monkeypatch.setattr("trackio.cpu_available", lambda: False)
    for name, module in list(sys.modules.items()):
        if name.startswith("trackio") and hasattr(module, "TRACKIO_DIR"):
            monkeypatch.setattr(module, "TRACKIO_DIR", tmp_path / "trackio")
    return tmp_path / "trackio"


def test_trackio_has_one_run_also_after_a_resume_and_an_evaluation(
    tmp_path: Path, trackio_files: Path, monkeypatch: Any
) -> None:
    first, second = train_then_resume(tmp_path / "run", "trackio", project="tests", run_name=None)
    second.evaluate()
    with sqlite3.connect(trackio_files / "tests.db") as connection:
        found = connection.execute("select run_name, metrics from metrics order by id").fetchall()
    assert len({name for name, _ in found}) == 1
    rows = [json.loads(metrics) for _, metrics in found]
    history = {row["train/global_step"]: row["train/loss"] for row in rows if "train/loss" in row}
    assert history == {step: pytest.approx(loss) for step, loss in losses(first)}
    assert sum("eval/loss" in row for row in rows) == 3


def test_trackios_fields_reach_trackio(tmp_path: Path, monkeypatch: Any) -> None:
    pytest.importorskip("trackio")
    calls: list[dict[str, Any]] = []
    reporter = reporters.TrackioReporter()
    run = SimpleNamespace(name="n")
    variable = SimpleNamespace(get=lambda: "me/space")
    reporter._trackio = SimpleNamespace(
        init=lambda **given: calls.append(given),
        config={},
        context_vars=SimpleNamespace(current_space_id=variable, current_run=SimpleNamespace(get=lambda: run)),
    )
    monkeypatch.setattr(reporter._trackio, "config", _Config())
    args = raytrainer.TrainingArguments(
        str(tmp_path),
        report_to="trackio",
        project="p",
        run_name="n",
        trackio_space_id="me/space",
        trackio_bucket_id="me/bucket",
    )
    reporter.setup(args, transformers.TrainerState(is_world_process_zero=True), None)
    assert calls[0]["space_id"] == "me/space"
    assert calls[0]["bucket_id"] == "me/bucket"
    assert (calls[0]["project"], calls[0]["name"]) == ("p", "n")


class _Config(dict):
    def update(self, values: Any, allow_val_change: bool = False) -> None:
        super().update(values)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"trackio_space_id": "s"}, "report_to='trackio'"),
        ({"trackio_static_space_id": "s"}, "report_to='trackio'"),
        ({"report_to": "trackio", "trackio_bucket_id": "b"}, "trackio_space_id"),
        ({"report_to": "trackio", "trackio_static_space_id": "s"}, "trackio_space_id"),
    ],
    ids=str,
)
def test_a_field_of_trackio_that_would_do_nothing_is_refused(given: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        raytrainer.TrainingArguments(**given)


# ---- all --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reporter", ["tensorboard", "mlflow", "trackio"])
def test_other_ranks_report_nothing(tmp_path: Path, reporter: str) -> None:
    args = raytrainer.TrainingArguments(str(tmp_path / "run"), report_to=reporter)
    (callback,) = reporters.make_reporters(args)
    state = transformers.TrainerState(is_world_process_zero=False)
    control = transformers.TrainerControl()
    callback.on_train_begin(args, state, control, model=None)
    callback.on_log(args, state, control, logs={"loss": 1.0})
    callback.on_train_end(args, state, control)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("reporter", "probe"),
    [
        ("tensorboard", "is_tensorboard_available"),
        ("mlflow", "is_mlflow_available"),
        ("trackio", "is_trackio_available"),
        ("clearml", "is_clearml_available"),
    ],
)
def test_a_missing_package_is_named_where_the_trainer_is_made(
    reporter: str, probe: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(integration_utils, probe, lambda: False)
    with pytest.raises(ConfigurationError, match=f"pip install {reporter}"):
        make_trainer(raytrainer, tmp_path, report_to=reporter)


def test_users_find_and_remove_reporters_by_the_classes_they_know(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    trainer = make_trainer(raytrainer, tmp_path, report_to="tensorboard")
    assert trainer.pop_callback(transformers.integrations.TensorBoardCallback) is not None
    assert trainer.pop_callback(transformers.integrations.TensorBoardCallback) is None
