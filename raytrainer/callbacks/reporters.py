"""Which reporters ``report_to`` names: those of ``transformers``, adapted to workers.

They are constructed with the Trainer and report on rank 0, which may run on another machine and may be restarted. So
three of them are extended: they carry along where the user wants the files (a relative path is relative to the
driver's directory), continue the run that an earlier attempt began, and report an evaluation after training to the run
that was trained instead of a new one.

Files go where the user says. By default TensorBoard writes into ``output_dir``; MLflow and Trackio write to their own
default in the user's process, and into ``output_dir`` on a worker, whose working directory nobody looks into.
"""

# The base classes, transformers' reporters, have no types.

from __future__ import annotations

import contextlib
import copy
import importlib
import importlib.util
import json
import os
import sys
import uuid
from collections.abc import Generator
from pathlib import Path
from typing import Any, cast

from filelock import FileLock
from torch import nn
from transformers import TrainerControl, TrainerState, TrainingArguments
from transformers.integrations import integration_utils as integrations
from transformers.trainer_callback import TrainerCallback

from raytrainer.callbacks.tracker_runs import RunRecord
from raytrainer.errors import MissingPackageError
from raytrainer.storage.stage import working_directory
from raytrainer.user_types import ProcessingClass

_PROCESS = uuid.uuid4().hex
"""Identifies this process among all others, also on other machines."""
_DEFAULT_PROJECT = TrainingArguments.project  # of a dataclass, whose defaults are its attributes


class _OnWorkers:
    """What the three reporters share: the record of the run, and whether this process constructed them."""

    keeps_record = True
    record: RunRecord | None = None
    _is_training = False
    _made_in: str
    _sweep: Path | None = None

    def join_sweep(self, directory: Path, trial: str) -> None:
        """Report as one run of a sweep, beside those of its other trials.

        Args:
            directory: The sweep's; what goes to ``output_dir`` by default goes here, for all trials together.
            trial: The trial's name, which is the run's too.
        """
        del trial
        self._sweep = directory

    def _on_worker(self) -> bool:
        return self._made_in != _PROCESS

    def _known_as(self, reporter: str) -> str | None:
        return self.record.name(reporter) if self.record is not None else None

    def _remember(self, reporter: str, name: str) -> None:
        if self.record is not None:
            self.record.remember(reporter, name)


class TensorBoardReporter(_OnWorkers, integrations.TensorBoardCallback):
    """TensorBoard, in one directory for all attempts of a run.

    Args:
        logging_dir: The argument of this name; ``TENSORBOARD_LOGGING_DIR`` and ``output_dir/runs/...`` otherwise.
    """

    def __init__(self, logging_dir: str | None = None) -> None:
        super().__init__()
        self._made_in = _PROCESS
        requested: str | None = logging_dir or self.logging_dir
        self._requested_dir = None if requested is None else absolute(requested)
        self.logging_dir = self._requested_dir

    def join_sweep(self, directory: Path, trial: str) -> None:
        """TensorBoard's runs are directories; each trial has one."""
        super().join_sweep(directory, trial)
        if self._requested_dir is not None:
            self._requested_dir = self.logging_dir = os.path.join(self._requested_dir, trial)

    def _init_summary_writer(self, args: TrainingArguments) -> None:
        known = self._known_as("tensorboard")
        directory: str | None = self.logging_dir or self._requested_dir or known
        self.logging_dir = directory
        # Steps after the checkpoint that are trained again hide those of the attempt that was lost.
        purge = self.record.first_step if self.record is not None and known == directory else None
        self.tb_writer = self._SummaryWriter(log_dir=directory, purge_step=purge)
        if directory is not None:
            self._remember("tensorboard", directory)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._is_training = True
        self.logging_dir = self._requested_dir or self._known_as("tensorboard")
        super().on_train_begin(args, state, control, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        if self.logging_dir is None:
            self.logging_dir = str(working_directory(str(args.output_dir)) / integrations.default_logdir())
        if not self._is_training and self.record is not None:
            self.record.first_step = state.global_step + 1  # an evaluation afterwards hides nothing
        super().on_log(args, state, control, logs=logs, **kwargs)
        if not self._is_training:
            super().on_train_end(args, state, control, **kwargs)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._is_training = False
        super().on_train_end(args, state, control, **kwargs)


class MLflowReporter(_OnWorkers, integrations.MLflowCallback):
    """MLflow, as one run for all attempts."""

    _auto_end_run = False  # the base class reads it even if its constructor failed

    def __init__(self) -> None:
        super().__init__()
        self._made_in = _PROCESS
        self._own_run: str | None = None
        self._settings: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = dict(vars(self))
        state["_settings"] = self._settings_here() if not self._on_worker() else self._settings
        return state

    def _settings_here(self) -> dict[str, str]:
        """Settings of the user's process that say where runs go; never credentials."""
        names = ("MLFLOW_EXPERIMENT_NAME", "MLFLOW_TAGS", "MLFLOW_RUN_ID", "MLFLOW_NESTED_RUN")
        more = ("MLFLOW_FLATTEN_PARAMS", "MLFLOW_MAX_LOG_PARAMS", "MLFLOW_ALLOW_FILE_STORE")
        found = {
            name: os.environ[name]
            for name in (*names, *more, "HF_MLFLOW_LOG_ARTIFACTS")
            if name in os.environ
        }
        if self._ml_flow.is_tracking_uri_set():
            found["MLFLOW_TRACKING_URI"] = absolute_uri(self._ml_flow.get_tracking_uri())
        return found

    def setup(self, args: TrainingArguments, state: TrainerState, model: Any) -> None:
        """Begin the run in MLflow, or continue it.

        Args:
            args: The training arguments.
            state: The state of training.
            model: The model, whose config is logged.
        """
        if not state.is_world_process_zero:
            self._initialized = True
            return
        if self._on_worker():
            for name, value in self._settings.items():
                os.environ.setdefault(name, value)
            self._choose_store(self._sweep or working_directory(str(args.output_dir)))
            if self._sweep is not None:
                _be_run_of(self._sweep)
        known = self._own_run or self._known_as("mlflow")
        with self._alone(), _environment("MLFLOW_RUN_ID", known):
            if self._own_run is not None:
                self._ml_flow.start_run(run_id=known)
                self._auto_end_run = self._initialized = True
            else:
                super().setup(args, state, model)
        active = self._ml_flow.active_run()
        if active is not None and self._is_training:
            self._own_run = active.info.run_id
            self._remember("mlflow", active.info.run_id)

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """Trials of a sweep begin at the same time, and the first one makes the store and the experiment."""
        if self._sweep is None:
            yield
            return
        with FileLock(self._sweep / ".mlflow.lock"):
            yield

    def _choose_store(self, directory: Path) -> None:
        if self._ml_flow.is_tracking_uri_set():
            return
        if importlib.util.find_spec("sqlalchemy") is not None:
            self._ml_flow.set_tracking_uri(f"sqlite:///{directory.absolute()}/mlflow.db")
        else:  # mlflow-skinny has file stores only, and requires this confirmation
            os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")
            self._ml_flow.set_tracking_uri((directory.absolute() / "mlruns").as_uri())

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        self._is_training, self._own_run = True, None
        super().on_train_begin(args, state, control, model=model, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float],
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        super().on_log(args, state, control, logs, model=model, **kwargs)
        if not self._is_training:
            self._end(args, state, control)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self._is_training = False
        self._end(args, state, control)

    def _end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl) -> None:
        if self._initialized and state.is_world_process_zero and self._auto_end_run:
            self._ml_flow.flush_async_logging()
        super().on_train_end(args, state, control)
        if self._auto_end_run or not state.is_world_process_zero:
            self._initialized = self._auto_end_run = False


class TrackioReporter(_OnWorkers, integrations.TrackioCallback):
    """Trackio, as one run for all attempts. Rank 0 imports the package once it is known where files go."""

    _trackio: Any

    def __init__(self) -> None:
        if not integrations.is_trackio_available():
            super().__init__()  # raises, and says what to install
        self._made_in = _PROCESS
        self._trackio = None
        self._initialized = False
        self._space_id = self._static_space_id = None
        self._own_name: str | None = None
        self._settings: dict[str, str] = {}

    def __getstate__(self) -> dict[str, Any]:
        state = {**vars(self), "_trackio": None}
        if not self._on_worker():
            names = ("TRACKIO_DIR", "TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL")
            found = {name: os.environ[name] for name in names if os.environ.get(name)}
            if "TRACKIO_DIR" in found:
                found["TRACKIO_DIR"] = absolute(found["TRACKIO_DIR"])
            state["_settings"] = found
        return state

    def _open_package(self, args: TrainingArguments) -> None:
        if self._on_worker() and "trackio" not in sys.modules:
            for name, value in self._settings.items():
                os.environ.setdefault(name, value)
            directory = self._sweep or working_directory(str(args.output_dir))
            os.environ.setdefault("TRACKIO_DIR", str(directory.absolute() / "trackio"))
        self._trackio = importlib.import_module("trackio")

    def setup(
        self, args: TrainingArguments, state: TrainerState, model: nn.Module | None = None, **kwargs: object
    ) -> None:
        """Begin the run in Trackio, or continue it.

        Args:
            args: The training arguments.
            state: The state of training.
            model: The model, whose config is logged.
            **kwargs: Passed on to transformers.
        """
        if not state.is_world_process_zero:
            self._initialized = True
            return
        if self._trackio is None:
            self._open_package(args)
        named = copy.copy(args)
        named.run_name = self._own_name or self._known_as("trackio") or args.run_name
        if self._sweep is not None and args.project == _DEFAULT_PROJECT:
            named.project = self._sweep.name
        super().setup(named, state, model, **kwargs)
        if self._is_training:
            trackio: Any = self._trackio
            self._own_name = trackio.context_vars.current_run.get().name
            self._remember("trackio", str(self._own_name))

    def on_train_begin(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        **kwargs: object,
    ) -> None:
        self._is_training, self._own_name = True, None
        super().on_train_begin(args, state, control, model=model, **kwargs)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        super().on_log(args, state, control, model=model, logs=logs, **kwargs)
        self._close_outside_training(state)

    def on_predict(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **kwargs: object,
    ) -> None:
        if not self._initialized:
            kwargs["model"] = kwargs.get("model")
            self.setup(args, state, cast("nn.Module | None", kwargs["model"]))
        super().on_predict(args, state, control, metrics, **kwargs)
        self._close_outside_training(state)

    def on_train_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: nn.Module | None = None,
        processing_class: ProcessingClass | None = None,
        **kwargs: object,
    ) -> None:
        self._is_training = False
        super().on_train_end(args, state, control, model=model, processing_class=processing_class, **kwargs)

    def _close_outside_training(self, state: TrainerState) -> None:
        if not self._is_training and self._initialized:
            if state.is_world_process_zero:
                self._trackio.finish()
            self._initialized = False


def make_reporters(args: TrainingArguments) -> list[TrainerCallback]:
    """Make the reporters that ``report_to`` names.

    Raises:
        ConfigurationError: If the package of one is not installed.
    """
    own: dict[str, Any] = {
        "tensorboard": TensorBoardReporter,
        "mlflow": MLflowReporter,
        "trackio": TrackioReporter,
    }
    names = reporter_names(args.report_to)
    made: list[TrainerCallback] = []
    classes = cast("list[Any]", integrations.get_reporting_integration_callbacks(names))
    for name, theirs in zip(names, classes, strict=True):
        given = {"logging_dir": getattr(args, "logging_dir", None)} if name == "tensorboard" else {}
        try:
            made.append(own.get(name, theirs)(**given))
        except (RuntimeError, ImportError) as error:
            package = {"tensorboard": "tensorboard", "comet_ml": "comet-ml"}.get(name, name)
            raise MissingPackageError(
                f"report_to={name!r} needs a package that is not installed ({error}). Run: pip install {package}; or "
                "leave it out of report_to."
            ) from error
    return made


def reporter_names(asked: Any) -> list[str]:
    """The names in ``report_to``; ``set_logging`` leaves a string where the constructor makes a list."""
    names: list[str] = [asked] if isinstance(asked, str) else list(asked or [])
    if "all" in names:
        return integrations.get_available_reporting_integrations()  # pyright: ignore[reportUnknownVariableType]
    return [name for name in names if name != "none"]


def absolute(path: str) -> str:
    """A path of the user's process, as an absolute path for other processes; a URI stays unchanged."""
    return path if "://" in path else os.path.abspath(os.path.expanduser(path))


def absolute_uri(uri: str) -> str:
    """The same for MLflow's URIs, where ``mlruns``, ``file:mlruns`` and ``sqlite:///x.db`` are relative paths."""
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{absolute(uri.removeprefix('sqlite:///'))}"
    if uri.startswith("file:") and not uri.startswith("file:/"):
        return Path(absolute(uri.removeprefix("file:"))).as_uri()
    return uri if ":" in uri or uri == "databricks" else absolute(uri)


def _be_run_of(sweep: Path) -> None:
    """On a worker of a trial: MLflow's runs of a sweep share an experiment and a tag, and no run."""
    os.environ.pop("MLFLOW_RUN_ID", None)
    os.environ.setdefault("MLFLOW_EXPERIMENT_NAME", sweep.name)
    tags = json.loads(os.environ.get("MLFLOW_TAGS") or "{}")
    os.environ["MLFLOW_TAGS"] = json.dumps({**tags, "sweep": sweep.name})


@contextlib.contextmanager
def _environment(name: str, value: str | None) -> Generator[None, None, None]:
    """Set an environment variable inside the context; None leaves it unchanged."""
    if value is None:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = before
