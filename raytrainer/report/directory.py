"""Where the files of a run are read, given its location: a directory, or a bucket whose files are fetched first."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from raytrainer.checkpoint.names import STATE_NAME, checkpoint_name, list_checkpoints, step_of
from raytrainer.errors import ConfigurationError
from raytrainer.storage.locations import is_uri
from raytrainer.storage.retry import BEFORE_A_RUN, Patience
from raytrainer.telemetry.bucket_records import FOLDER, is_record
from raytrainer.telemetry.run_files import EVENTS_NAME, METRICS_NAME

if TYPE_CHECKING:
    from raytrainer.storage.store import ObjectStore

SWEEP_NAME = "sweep.json"
_RECORDS = (METRICS_NAME, EVENTS_NAME, SWEEP_NAME)


def record_files(directory: Path, name: str) -> list[Path]:
    """The files of one kind: that of the directory, and those of a bucket that it is a copy of, one of each process.

    Args:
        directory: Of a run.
        name: ``metrics.jsonl`` or ``events.jsonl``.
    """
    own = directory / name
    return [
        *([own] if own.is_file() else []),
        *sorted((directory / FOLDER).glob(f"{Path(name).stem}-*.jsonl")),
    ]


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
            raise no_run(location)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="raytrainer-report-") as scratch:
        copy_run(location, Path(scratch))
        yield Path(scratch)


def is_run(path: Path) -> bool:
    """Whether a directory is that of a run or a sweep."""
    has_record = any((path / name).is_file() for name in _RECORDS) or (path / FOLDER).is_dir()
    return has_record or bool(list_checkpoints(path))


def is_run_in_bucket(store: ObjectStore, folders: Iterable[str]) -> bool:
    """Whether a URI is that of a run or a sweep.

    Args:
        store: Of the URI.
        folders: Right below it.
    """
    return any(name == FOLDER or step_of(Path(name)) is not None for name in folders) or any(
        store.exists(name) for name in _RECORDS
    )


def copy_run(uri: str, scratch: Path, patience: Patience = BEFORE_A_RUN) -> None:
    """Fetch the record of a run, and the state of its newest checkpoint; what an earlier call has fetched stays.

    Args:
        uri: Of the run.
        scratch: Where it goes.
        patience: How long a bucket that does not answer is asked again.

    Raises:
        ConfigurationError: If it cannot be read, or there is no run.
    """
    from raytrainer.checkpoint.remote.contents import complete_steps
    from raytrainer.storage.store import ObjectStore

    try:
        store = ObjectStore(uri, patience)
        found = store.list()
        steps = complete_steps(found)
        names = [
            name for name in found if name in _RECORDS or (name.startswith(f"{FOLDER}/") and is_record(name))
        ]
        if not names and not steps:
            missing = store.missing_bucket()
            raise no_bucket(uri, missing) if missing is not None else no_run(uri)
        (scratch / FOLDER).mkdir(exist_ok=True)
        store.get_all({name: scratch / name for name in names if _size(scratch / name) != found[name]})
        for step in steps:
            (scratch / checkpoint_name(step)).mkdir(exist_ok=True)
        for step in steps[-1:]:
            state = f"{checkpoint_name(step)}/{STATE_NAME}"
            with contextlib.suppress(FileNotFoundError):  # A run that goes on may have deleted it.
                store.get(state, scratch / state)
    except OSError as error:
        raise cannot_read(uri, error) from error


def no_run(location: str) -> ConfigurationError:
    """The error about a directory or URI at which there is no run."""
    place = "URI" if is_uri(location) else "DIRECTORY"
    return ConfigurationError(
        f"{location} holds no run: there is neither {EVENTS_NAME} nor a checkpoint-N in it. Name the output_dir of a "
        f"run; `raytrainer runs {place}` lists those below."
    )


def cannot_read(uri: str, error: OSError) -> ConfigurationError:
    """The error about a bucket that cannot be read."""
    return ConfigurationError(f"{uri} cannot be read: {error}. Check the name and the credentials.")


def no_bucket(uri: str, name: str) -> ConfigurationError:
    """The error about a bucket that is not there."""
    return ConfigurationError(
        f"{uri} cannot be read: there is no bucket {name!r}. Correct the name, or AWS_ENDPOINT_URL if it is set."
    )


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
