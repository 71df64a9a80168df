"""How the record of a run gets into a bucket, where nothing can be appended to an object.

Each process that writes lines keeps a file of its own in its stage, and puts it whole into ``run-records/`` of the run,
in an object that no other process writes. A thread does that: soon after a save, else every half minute, and less often
when it is large, so that a long run does not send its past again and again. At the end of a call it is done at once,
nothing stays in the stage, and the next call begins another object. Who reads takes all of them together, by the time
of each line (``report.directory``).

A killed process loses what it has not sent. A bucket that fails costs lines, and not a run.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import secrets
import threading
import time
from pathlib import Path

from raytrainer.errors import ConfigurationError
from raytrainer.storage.retry import OF_LOGS
from raytrainer.storage.stage import stage_of

logger = logging.getLogger(__name__)

FOLDER = "run-records"
_FOLDER_OF_STAGE = ".records"
"""Hidden: what is beside it in the stage is uploaded as it is."""
INTERVAL_S = 30.0
BYTES_PER_S = 100_000
"""A file is sent again at most as often as sends so much on average ..."""
LONGEST_S = 120.0
"""... but not less often than this [s]: readers take a run for dead that has been silent for longer."""
_LOOK_S = 2.0


class BucketRecords:
    """The records that this process writes of the run at a URI.

    Args:
        uri: The run's ``output_dir``.

    Raises:
        ConfigurationError: If this machine has no place for a stage.
    """

    def __init__(self, uri: str) -> None:
        self.directory = stage_of(uri) / _FOLDER_OF_STAGE
        self._uri = uri
        self._name = secrets.token_hex(4)
        self._sent: dict[str, tuple[int, float]] = {}
        self._lock = threading.Lock()
        self._is_wanted = threading.Event()
        self._is_over = threading.Event()
        self._has_warned = False
        self._thread: threading.Thread | None = None

    def begin(self) -> None:
        """Send what is written, until ``finish``."""
        if self._thread is None:
            self._is_over = threading.Event()
            self._thread = threading.Thread(
                target=self._send_on, args=(self._is_over,), name="raytrainer-records", daemon=True
            )
            self._thread.start()
            atexit.register(self.finish)

    def send_soon(self) -> None:
        """Send what there is, without waiting for it."""
        self._is_wanted.set()

    def finish(self) -> None:
        """Send what there is, and begin other objects. What the bucket does not take now stays for the next time."""
        self._is_over.set()
        self._is_wanted.set()
        self._thread = None
        with self._lock:
            for path in self.directory.glob("*.jsonl"):
                if not _is_finished(path):  # Put aside, so that who goes on writing begins a file.
                    path.rename(path.with_name(self._object_of(path)))
            self._name = secrets.token_hex(4)
        if self.send():
            atexit.unregister(self.finish)
            with self._lock:
                for path in filter(_is_finished, self.directory.glob("*.jsonl")):
                    self._sent.pop(path.name, None)
                    path.unlink(missing_ok=True)

    def send(self, *, only_due: bool = False) -> bool:
        """Send what has changed. Never raises.

        Args:
            only_due: Leave out what was sent a moment ago.

        Returns:
            Whether the bucket has taken it.
        """
        try:
            with self._lock:
                self._send(only_due=only_due)
                return True
        except (OSError, ConfigurationError) as error:
            if not self._has_warned:
                self._has_warned = True
                logger.warning("The record of the run could not be written to %s: %s", self._uri, error)
            return False

    def _send_on(self, is_over: threading.Event) -> None:
        while True:
            is_wanted = self._is_wanted.wait(_LOOK_S)
            if is_over.is_set():
                return
            self._is_wanted.clear()
            self.send(only_due=not is_wanted)

    def _send(self, *, only_due: bool) -> None:
        from raytrainer.storage.store import ObjectStore

        for path in sorted(self.directory.glob("*.jsonl")):
            name, size = self._object_of(path), path.stat().st_size
            sent_size, sent_at = self._sent.get(name, (0, -INTERVAL_S))
            is_due = time.monotonic() - sent_at >= max(INTERVAL_S, min(LONGEST_S, size / BYTES_PER_S))
            if size == sent_size or (only_due and not is_due):
                continue
            content = path.read_bytes()
            lines = content[: content.rfind(b"\n") + 1]
            ObjectStore(self._uri, OF_LOGS).put_text(f"{FOLDER}/{name}", lines.decode())
            self._sent[name] = (len(lines), time.monotonic())

    def _object_of(self, path: Path) -> str:
        return path.name if _is_finished(path) else f"{path.stem}-{self._name}.jsonl"


def _is_finished(path: Path) -> bool:
    """Whether a file has the name of its object: nobody writes to it any more."""
    return "-" in path.stem


def records_of(uri: str) -> BucketRecords | None:
    """The records of this process at a URI; None where it has no place to stage them, which is said elsewhere."""
    try:
        return _records_of(uri, os.getpid())
    except ConfigurationError:
        logger.debug("No record of %s is written.", uri, exc_info=True)
        return None


@functools.cache
def _records_of(uri: str, pid: int) -> BucketRecords:
    """One for each process: a forked one has a stage of its own."""
    del pid
    return BucketRecords(uri)


def is_record(name: str) -> bool:
    """Whether an object of a bucket, or a file of a copy of it, belongs to the record of a run."""
    return Path(name).parent.name == FOLDER and name.endswith(".jsonl")
