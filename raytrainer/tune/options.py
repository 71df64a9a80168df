"""The keyword arguments of ``hyperparameter_search`` that say how a sweep runs."""

from __future__ import annotations

import datetime
import os
import time
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri
from raytrainer.suggestions import did_you_mean

SCOPES = {"last": "last", "best": "best"}
_OPTUNAS_NAMES = {"timeout": "time_budget_s", "n_jobs": "max_concurrent_trials"}
"""What ``optuna.Study.optimize`` calls an option -> what it is called here."""
_CLOCKS = ("training_iteration", "step", "epoch", "time_total_s", "time_since_restore")


@dataclass(kw_only=True)
class SweepOptions:
    """How a sweep runs. Every field is a keyword argument of ``hyperparameter_search``."""

    scheduler: Any = None
    """A scheduler of Ray Tune, such as ``ASHAScheduler``; its metric is the objective."""
    search_alg: Any = None
    """A searcher of Ray Tune; by default random search, or Optuna's own sampler with ``backend="optuna"``."""
    sampler: Any = None
    """A sampler of Optuna for ``backend="optuna"``; by default its own TPE, seeded with ``seed``."""
    resources_per_trial: Any = None
    """What a trial gets for all of its workers, ``{"cpu": 4, "gpu": 1}``; by default 1 CPU, or 1 GPU, per worker."""
    max_concurrent_trials: int | None = None
    """Trials that run at once; by default as many as the cluster has room for."""
    time_budget_s: float | datetime.timedelta | None = None
    """After so many seconds trials save and stop."""
    storage_path: str | os.PathLike[str] | None = None
    """Where the sweep's directory is made; ``output_dir`` by default."""
    name: str | None = None
    """Name of the sweep's directory; by default ``sweep-`` and the time."""
    resume: bool = False
    """Go on with the sweep called ``name``, or with the newest one."""
    scope: str | None = None
    """Which evaluation of a trial counts: its ``"last"`` or its ``"best"``; RAY_SCOPE, or ``"last"``, by default."""
    load_best: bool = False
    """The trainer gets the weights of the best trial's checkpoint."""

    def __post_init__(self) -> None:
        self.scope = self.scope or os.environ.get("RAY_SCOPE") or "last"
        if self.scope not in SCOPES:
            raise ConfigurationError(
                f"scope={self.scope!r} is neither 'last' nor 'best': which evaluation of a trial is its objective?"
            )
        check_clock(self.scheduler)
        if self.max_concurrent_trials is not None and self.max_concurrent_trials < 1:
            raise ConfigurationError(
                f"max_concurrent_trials={self.max_concurrent_trials} lets no trial run. Give a number of 1 or more."
            )

    def directory(self, output_dir: str | None) -> Path:
        """The sweep's directory.

        Args:
            output_dir: That of the trainer.

        Raises:
            ConfigurationError: If there is nothing to resume, the directory holds another sweep, or it is a URI.
        """
        place = self.storage_path or output_dir or "tmp_trainer"
        if is_uri(place):
            raise ConfigurationError(
                f"The directory of a sweep would be below {os.fspath(place)!r}, which is a URI, and Ray Tune and the "
                "trials keep files there. Pass storage_path=, a path that all machines share."
            )
        parent = Path(os.path.abspath(place))
        if self.resume:
            return _existing(parent, self.name)
        directory = parent / (self.name or time.strftime("sweep-%Y%m%d-%H%M%S"))
        if (directory / "tuner.pkl").exists():
            raise ConfigurationError(
                f"{directory} holds a sweep. Pass resume=True to go on with it, or give this one another name."
            )
        return directory


def read_options(keywords: dict[str, Any]) -> SweepOptions:
    """Read the keyword arguments.

    Raises:
        ConfigurationError: For one that does not exist, or a value that it cannot have.
    """
    known = [field.name for field in fields(SweepOptions)]
    keywords = {_OPTUNAS_NAMES.get(name, name): value for name, value in keywords.items()}
    if keywords.get("max_concurrent_trials") == -1:
        keywords["max_concurrent_trials"] = None  # Optuna's n_jobs=-1
    if keywords.get("pruner") is not None:
        raise ConfigurationError(
            "hyperparameter_search got pruner=; what stops trials here is a scheduler of Ray Tune: pass "
            "scheduler=ray.tune.schedulers.ASHAScheduler(), for instance."
        )
    for name in keywords:
        if name not in known:
            raise ConfigurationError(
                f"hyperparameter_search has no argument {name!r}.{did_you_mean(name, known)} It has {', '.join(known)}."
            )
    return SweepOptions(**keywords)


def check_clock(scheduler: Any) -> None:
    """Check that a scheduler counts by something that trials report.

    Raises:
        ConfigurationError: If it does not.
    """
    clock = getattr(scheduler, "_time_attr", None)
    if clock is not None and clock not in _CLOCKS:
        raise ConfigurationError(
            f"The scheduler counts by time_attr={clock!r}, which trials do not report. They report "
            f"{', '.join(_CLOCKS)} ('training_iteration' counts evaluations)."
        )


def _existing(parent: Path, name: str | None) -> Path:
    if name is not None:
        found = [parent / name] if (parent / name / "tuner.pkl").exists() else []
    else:
        found = sorted(parent.glob("*/tuner.pkl"), key=lambda file: file.stat().st_mtime)[-1:]
        found = [file.parent for file in found]
    if not found:
        raise ConfigurationError(
            f"resume=True found no sweep{f' called {name!r}' if name else ''} in {parent}. Call it without resume to "
            "start one, or pass storage_path= and name= of the sweep."
        )
    return found[0]
