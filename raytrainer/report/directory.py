"""Where the files of a run are read, given its location: a directory, or a bucket whose files are fetched first."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator
from pathlib import Path

from raytrainer.checkpoint.names import STATE_NAME, checkpoint_name, list_checkpoints, step_of
from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri
from raytrainer.telemetry.run_files import EVENTS_NAME, METRICS_NAME

SWEEP_NAME = "sweep.json"
_RECORDS = (METRICS_NAME, EVENTS_NAME, SWEEP_NAME)


@contextlib.contextmanager
def run_directory(location: str) -> Generator[Path]:
    """A directory with the records of a run, and the states of its checkpoints.

    Args:
        location: A path, or the URI of a run in a bucket.

    Raises:
        ConfigurationError: If there is nothing of a run.
    """
    if not is_uri(location):
        path = Path(location)
        if not path.is_dir():
            raise ConfigurationError(f"{location} is not a directory. Name the output_dir of a run.")
        if not is_run(path):
            raise ConfigurationError(
                f"{location} holds no run: there is neither {EVENTS_NAME} nor a checkpoint-N in it. Name the "
                "output_dir of a run; `raytrainer runs DIRECTORY` lists those below a directory."
            )
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raytrainer-report-") as scratch:
        _fetch(location, Path(scratch))
        yield Path(scratch)


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run or a sweep."""
    return any((path / name).is_file() for name in _RECORDS) or bool(list_checkpoints(path))


def _fetch(uri: str, scratch: Path) -> None:
    from raytrainer.storage.store import ObjectStore

    store = ObjectStore(uri)
    try:
        names = [name for name in _RECORDS if store.exists(name)]
        steps = sorted(step for name in store.folders() if (step := step_of(Path(name))) is not None)
        for step in steps:
            (scratch / checkpoint_name(step)).mkdir()
        names += [f"{checkpoint_name(step)}/{STATE_NAME}" for step in steps[-1:]]
        store.get_all({name: scratch / name for name in names})
    except OSError as error:
        raise ConfigurationError(
            f"{uri} cannot be read: {error}. Check the name and the credentials."
        ) from error
    if not names:
        raise ConfigurationError(
            f"{uri} holds no run: there is neither {EVENTS_NAME} nor a checkpoint-N in it."
        )
