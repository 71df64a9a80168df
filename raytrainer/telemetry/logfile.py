"""Where the log records of a Ray worker are kept: ``output_dir/logs/rank-{rank}.log``.

A run in one process or under ``torchrun`` has none: its records are on the terminal already, and scripts that list
``output_dir`` expect checkpoints there and nothing else.

The terminal shows what everyone needs; this file keeps what is needed after something went wrong. Attaching a handler
to the root logger has two side effects that are undone here: logging's last resort (warnings on stderr when nothing is
configured) would go silent, and lowering the level of our own loggers would make the user's handlers print our INFO
records. What appears on the terminal is the same with and without the file, but for what people were told already: a
Ray worker's terminal is that of the driver, which shows it.

Never writes anything to the terminal, and never changes the level of foreign loggers.
"""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raytrainer.foreign_warnings import use_file
from raytrainer.told import was_not_told

_FORMAT = "%(asctime)s %(levelname)-7s %(name)s: %(message)s"
_OURS = "raytrainer"

Filter = logging.Filter | Callable[[logging.LogRecord], bool]


@dataclass(slots=True)
class _Attached:
    path: Path
    attempt: int | None
    handler: logging.FileHandler
    loggers: list[logging.Logger] = field(default_factory=list[logging.Logger])
    quieted: list[tuple[logging.Handler, Filter]] = field(
        default_factory=list[tuple[logging.Handler, Filter]]
    )
    last_resort: logging.Handler | None = None
    former_level: int | None = None


_attached: _Attached | None = None


def attach_rank_log(log_dir: Path, rank: int, *, run_id: str = "", attempt: int | None = None) -> Path:
    """Write the records of this process (INFO and above) to a file as well.

    Calling it again for the same file and attempt changes nothing; for a new attempt it adds a header line; for
    another file it detaches the previous one.

    Args:
        log_dir: Directory of the log files; made if missing.
        rank: Rank of this process.
        run_id: Named in the header line.
        attempt: 0 for the first start of the workers; named in the header line, counted from 1.

    Returns:
        The file.

    Raises:
        OSError: If the file cannot be opened.
    """
    global _attached  # noqa: PLW0603  one file per process, like the root logger that it is attached to
    path = Path(log_dir).absolute() / f"rank-{rank}.log"
    if _attached is not None and _attached.path == path:
        if _attached.attempt != attempt:
            _attached.attempt = attempt
            _write_header(_attached.handler, rank, run_id, attempt)
        return path
    detach_rank_log()
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8", errors="backslashreplace")
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter(_FORMAT))
    _write_header(handler, rank, run_id, attempt)
    _attached = _Attached(path=path, attempt=attempt, handler=handler)
    _keep_terminal_unchanged(_attached)
    for target in (logging.root, *_loggers_without_propagation()):
        target.addHandler(handler)
        _attached.loggers.append(target)
    use_file(handler)
    return path


def detach_rank_log() -> None:
    """Undo ``attach_rank_log``; does nothing when no file is attached."""
    global _attached
    if _attached is None:
        return
    attached, _attached = _attached, None
    use_file(None)
    for target in attached.loggers:
        target.removeHandler(attached.handler)
    for handler, quiet in attached.quieted:
        handler.removeFilter(quiet)
    if attached.last_resort is not None:
        logging.root.removeHandler(attached.last_resort)
    if attached.former_level is not None:
        logging.getLogger(_OURS).setLevel(attached.former_level)
    attached.handler.close()


class _OursOnlyFrom(logging.Filter):
    """Lets our own records pass only at or above the level that was in force before."""

    def __init__(self, level: int) -> None:
        super().__init__()
        self._level = level

    def filter(self, record: logging.LogRecord) -> bool:
        ours = record.name == _OURS or record.name.startswith(_OURS + ".")
        return not ours or record.levelno >= self._level


def _keep_terminal_unchanged(attached: _Attached) -> None:
    root = logging.root
    if not root.handlers and logging.lastResort is not None:
        attached.last_resort = logging.lastResort
        root.addHandler(logging.lastResort)
    for handler in root.handlers:
        kind: type[logging.Handler] = type(handler)
        if issubclass(kind, logging.StreamHandler) and not issubclass(kind, logging.FileHandler):
            handler.addFilter(was_not_told)
            attached.quieted.append((handler, was_not_told))
    ours = logging.getLogger(_OURS)
    effective = ours.getEffectiveLevel()
    if effective <= logging.INFO:
        return
    for handler in (*ours.handlers, *root.handlers):
        quiet = _OursOnlyFrom(effective)
        handler.addFilter(quiet)
        attached.quieted.append((handler, quiet))
    attached.former_level = ours.level
    ours.setLevel(logging.INFO)


def _loggers_without_propagation() -> list[logging.Logger]:
    """Top-level loggers whose records never reach the root logger (transformers and ray do that)."""
    return [
        known
        for name, known in list(logging.root.manager.loggerDict.items())
        if "." not in name and isinstance(known, logging.Logger) and not known.propagate
    ]


def _write_header(handler: logging.FileHandler, rank: int, run_id: str, attempt: int | None) -> None:
    when = time.strftime("%Y-%m-%d %H:%M:%S")
    run = f"run {run_id}, " if run_id else ""
    if attempt is not None:
        run += f"attempt {attempt + 1}, "
    where = f"rank {rank}, pid {os.getpid()} on {socket.gethostname()}"
    # Through a separate file object, to bypass the handler's format and level. Both append, so nothing is overwritten.
    with Path(handler.baseFilename).open("a", encoding="utf-8") as file:
        file.write(f"---- {when} {run}{where} ----\n")
