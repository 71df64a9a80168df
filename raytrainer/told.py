"""What was said to people through an event of the run is not printed again by logging.

A note of rank 0 is shown on the driver's terminal and recorded in ``events.jsonl``. It is logged too, for the log file
of the rank and for whoever has set up logging. Where nobody has, logging's last resort prints warnings to stderr, and a
Ray worker has a handler of Ray Train for that, whose output Ray brings to the driver's terminal: there each note would
stand twice.
"""

from __future__ import annotations

import logging

_MARK = "was_told"


def log_told(logger: logging.Logger, text: str, *, level: int = logging.WARNING) -> None:
    """Log what an event tells people; a terminal does not get it twice.

    Args:
        logger: Of the caller's module.
        text: What they are told.
        level: As of ``logging``.
    """
    logger.log(level, "%s", text, extra={_MARK: True})


def mark_told(record: logging.LogRecord) -> None:
    """From now on, handlers that print to a terminal leave a record out, because an event has its text."""
    setattr(record, _MARK, True)


def was_not_told(record: logging.LogRecord) -> bool:
    """A filter for handlers that print to a terminal."""
    return not getattr(record, _MARK, False)


def keep_from_last_resort() -> None:
    """From now on, logging's last resort leaves out what people were told; once for each process."""
    if logging.lastResort is not None and was_not_told not in logging.lastResort.filters:
        logging.lastResort.addFilter(was_not_told)
