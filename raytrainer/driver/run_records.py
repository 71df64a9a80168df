"""Where a run is recorded by the process that shows it to people, and when its page is written.

A driver writes what it tells people beside what rank 0 writes (``telemetry.run_files``). A process that trains itself
writes both. The page of a run (``report``) is written when ``train()`` ends, also by a failure, unless
``report_page=False`` or what draws it is not installed. A trial of a sweep has none: the sweep has one. It is written
before the block at the end is shown, which names it.

Nothing can be appended to an object of a bucket: how its record gets there, ``telemetry.bucket_records`` says. A run in
a bucket has no page until somebody asks for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from raytrainer.storage.locations import is_uri
from raytrainer.telemetry.events import TrainEnded, TrainFailed
from raytrainer.telemetry.run_files import RunFiles, files_of_run

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments
    from raytrainer.runtimes.base import Runtime

logger = logging.getLogger(__name__)


class DriverRecords:
    """What a driver records of one call.

    Args:
        args: Say where.
        run: Names the call.
        has_page: It is one of ``train()`` that no sweep made.
    """

    def __init__(self, args: TrainingArguments, run: Callable[[], str], *, has_page: bool) -> None:
        self._location = str(args.output_dir)
        self._has_page = has_page and _wants_page(args)
        self._is_page_current = False
        self._files = files_of_run(self._location, rank=None, run=lambda: (run(), 0))

    def handle(self, event: object) -> object:
        """Take over an event; that an attempt failed is told by what follows from it.

        Returns:
            The event as it is shown.
        """
        if self._files is None:
            return event
        if not isinstance(event, TrainFailed):
            self._files.handle(event)
        self._is_page_current = False
        if isinstance(event, TrainEnded) and self._has_page:
            self._is_page_current = True
            return with_page(event, self._location)
        return event

    def failed(self, error: BaseException) -> None:
        """The call ended with an exception."""
        self._is_page_current = False
        if self._files is not None:
            self._files.handle(failure(error))

    def close(self) -> None:
        """The call is over."""
        if self._files is None:
            return
        self._files.close()
        if self._has_page and not self._is_page_current:
            write_page(self._location)


def recorder_here(
    args: Callable[[], TrainingArguments], runtime: Callable[[], Runtime]
) -> Callable[[object], object]:
    """What records the events of a process that trains itself, and returns them as they are shown.

    Args:
        args: The arguments of the trainer, whose ``output_dir`` may change between calls.
        runtime: Names the run.
    """
    files: dict[str, RunFiles] = {}

    def record(event: object) -> object:
        location = str(args().output_dir)
        if location not in files:
            made = files_of_run(location, rank=0, run=lambda: (runtime().run_id, runtime().attempt))
            if made is None:
                return event
            files[location] = made
        files[location].handle(event)
        if isinstance(event, TrainEnded | TrainFailed):
            files.pop(location).close()
            if _wants_page(args()):
                return with_page(event, location)
        return event

    return record


def failure(error: BaseException) -> TrainFailed:
    """The event that says how a call ended."""
    ends = isinstance(error, KeyboardInterrupt | SystemExit)
    return TrainFailed(type_name=type(error).__name__, text=str(error), interrupted=ends)


def with_page(event: TrainEnded | TrainFailed, location: str) -> TrainEnded | TrainFailed:
    """Write the page of a run that has ended; the event names it if it is there."""
    page = write_page(location)
    if page is None or isinstance(event, TrainFailed):
        return event
    return replace(event, places={**event.places, "report": page})


def write_page(location: str) -> str | None:
    """Write the page of a run into its directory, if what draws it is installed. Never raises.

    Returns:
        Its path, if it was written.
    """
    from raytrainer.report.page import PAGE_NAME, can_draw, write_report

    page = f"{location.rstrip('/')}/{PAGE_NAME}"
    try:
        if can_draw():
            write_report([location], page)
            return page
    except Exception as error:  # noqa: BLE001  a page is never worth a run
        logger.warning("The page of the run in %s could not be written: %s", location, error)
    return None


def _wants_page(args: TrainingArguments) -> bool:
    return args.report_page and not is_uri(str(args.output_dir))
