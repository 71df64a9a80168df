"""Which run may write checkpoints into a directory: one at a time, and a run that died loses it.

Two runs that share an ``output_dir`` by accident would take each other's checkpoints for their own, and delete what the
other is writing. So rank 0 keeps a small file in it as long as it trains. It names the process, and is touched every
few seconds. On the same machine another run sees whether that process lives, and gives it some time to end: it may be
saving before it does. A run on another machine gives it that time too, if it sees a touch, and takes the directory over
if none comes.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from raytrainer.errors import ConfigurationError

logger = logging.getLogger(__name__)

NAME = ".lease.json"
BEAT_S = 5.0
"""How often the file is touched."""
STALE_S = 60.0
"""How long a run on another machine may be silent until it counts as dead: a node may pause, a file server may too."""


PATIENCE_S = 20.0
"""How long to wait for a run to end: what was stopped a moment ago may still be saving."""


@dataclass(frozen=True, slots=True)
class Holder:
    """The process of a run that writes into a directory."""

    run_id: str
    machine: str
    """Host name, and on Linux what tells apart reboots and containers, each of which numbers its own processes."""
    pid: int
    started: float
    """When the process began [s since the epoch]: its number may be given to another one later."""
    since: str
    """Local time at which it took the directory, for people."""

    def is_here(self) -> bool:
        """Whether its process, if it lives, is among those of this machine."""
        return self.machine == _machine()

    def is_alive(self) -> bool:
        """Whether its process lives; asked on its own machine only."""
        try:
            process = psutil.Process(self.pid)
            return process.create_time() == self.started and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def __str__(self) -> str:
        return f"process {self.pid} on {self.machine.partition('/')[0]}, since {self.since}"


def this_process(run_id: str) -> Holder:
    """This process, for a run that takes a directory now."""
    return Holder(
        run_id=run_id,
        machine=_machine(),
        pid=os.getpid(),
        started=psutil.Process().create_time(),
        since=time.strftime("%Y-%m-%d %H:%M:%S"),
    )


@contextlib.contextmanager
def held(directory: Path, run_id: str, *, report: Callable[[str], None]) -> Generator[None]:
    """One rank: hold a directory for a run.

    Args:
        directory: The run's ``output_dir``; made if it is missing.
        run_id: Names the run. A later attempt of the same run takes over from an earlier one.
        report: Called with one sentence if a dead run's lease is waited for or taken over.

    Raises:
        ConfigurationError: If another run that lives holds it.
    """
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / NAME
    mine = this_process(run_id)
    _take(path, mine, report=report)
    is_over = threading.Event()
    beats = threading.Thread(
        target=_beat, args=(path, mine, directory.stat(), is_over), name="lease", daemon=True
    )
    beats.start()
    try:
        yield
    finally:
        is_over.set()
        beats.join()
        _release(path, mine)


def check_free(directory: Path, *, report: Callable[[str], None]) -> None:
    """On a driver: refuse a directory that a living process of this machine holds.

    Args:
        directory: The run's ``output_dir``; need not exist.
        report: Called with one sentence if the end of that process is waited for.

    Raises:
        ConfigurationError: If it is held.
    """
    holder, _ = _read(directory / NAME)
    if holder is not None and holder.is_here():
        _wait_for_end(directory, holder, report=report)


def is_held(directory: Path) -> bool:
    """Whether a run that lives holds a directory, as far as this machine can see. Changes nothing."""
    holder, touched = _read(directory / NAME)
    if touched is None:
        return False
    if holder is not None and holder.is_here():
        return holder.is_alive()
    return time.time() - touched < STALE_S


def _take(path: Path, mine: Holder, *, report: Callable[[str], None]) -> None:
    silent: tuple[Holder | None, float | None] | None = None
    while True:
        with _one_at_a_time(path.parent):
            holder, touched = found = _read(path)
            is_mine = holder is not None and holder.run_id == mine.run_id
            is_here = holder is not None and holder.is_here()
            is_dead = holder is not None and is_here and not holder.is_alive()
            if touched is None or is_mine or is_dead or found == silent:
                path.write_text(json.dumps(asdict(mine)), encoding="utf-8")
                return
        if holder is not None and is_here:
            _wait_for_end(path.parent, holder, report=report)
        else:
            _wait_for_silence(path, holder, touched, report=report)
            silent = found


def _release(path: Path, mine: Holder) -> None:
    """Give the directory back; an error of storage must not hide the one that ended the run."""
    try:
        if _read(path)[0] == mine:
            path.unlink(missing_ok=True)
    except OSError as error:
        # This process will not live: on this machine that frees the directory at once.
        logger.warning("%s could not be deleted: %s", path, error)


@contextlib.contextmanager
def _one_at_a_time(directory: Path) -> Generator[None]:
    """Only one process at a time is in the block; on file servers that cannot lock directories, most likely so."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _wait_for_end(directory: Path, holder: Holder, *, report: Callable[[str], None]) -> None:
    """Wait until a run on this machine has released the directory, or its process is dead."""
    ends = time.monotonic() + PATIENCE_S
    is_told = False
    while holder.is_alive() and _read(directory / NAME)[0] == holder:
        if time.monotonic() > ends:
            raise in_use(directory, holder, directory / NAME)
        if not is_told:
            report(
                f"{directory} is in use by another run ({holder}). Waiting up to {PATIENCE_S:.0f} s for its end ..."
            )
            is_told = True
        time.sleep(min(0.2, PATIENCE_S))


def _wait_for_silence(
    path: Path, holder: Holder | None, touched: float, *, report: Callable[[str], None]
) -> None:
    """Wait until a run on another machine has released the directory, or has been silent for as long as a dead one."""
    who = "by an unknown process" if holder is None else str(holder)
    report(
        f"{path.parent} may be in use by another run ({who}). Waiting up to {STALE_S:.0f} s for a sign of life ..."
    )
    began = time.monotonic()
    while time.monotonic() - began < STALE_S:
        time.sleep(min(1.0, STALE_S / 10))
        now = _read(path)
        if now[1] is None:
            return
        if now != (holder, touched) and time.monotonic() - began >= min(PATIENCE_S, STALE_S):
            raise in_use(path.parent, now[0], path)
    report(f"{path.parent} is taken over: the run that used it ({who}) gave no sign of life.")


def _read(path: Path) -> tuple[Holder | None, float | None]:
    """The holder, None while it is being written; and when the file was touched, None if there is none."""
    try:
        # Opened, so that a network file system asks its server.
        with path.open(encoding="utf-8") as file:
            touched, text = os.fstat(file.fileno()).st_mtime, file.read()
    except FileNotFoundError:
        return None, None
    try:
        return Holder(**json.loads(text)), touched
    except (TypeError, ValueError):
        return None, touched


def _beat(path: Path, mine: Holder, directory: os.stat_result, is_over: threading.Event) -> None:
    while not is_over.wait(BEAT_S):
        try:
            os.utime(path)
        except FileNotFoundError:
            with contextlib.suppress(OSError):
                now = path.parent.stat()
                if os.path.samestat(now, directory):  # somebody took the lease away, as its refusal advises
                    return
                # Somebody removed the directory, and a save made it anew: it is still this run's.
                with path.open("x", encoding="utf-8") as file:
                    file.write(json.dumps(asdict(mine)))
                directory = now
        except OSError as error:
            logger.debug("The lease of %s could not be touched: %s", path.parent, error)


def in_use(location: object, holder: Holder | None, lease: object) -> ConfigurationError:
    """The error about a directory, or a bucket, that another run holds.

    Args:
        location: What is held.
        holder: By whom, if that is known.
        lease: Where that is written.
    """
    who = "another run" if holder is None else f"another run ({holder})"
    return ConfigurationError(
        f"output_dir={str(location)!r} is in use by {who}. Two runs in one directory would overwrite and delete each "
        f"other's checkpoints: give this run another output_dir, or wait until that one has ended. If you know that it "
        f"is gone, delete {lease}."
    )


def _machine() -> str:
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):  # on Linux
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip())
        parts.append(str(os.stat("/proc/self/ns/pid").st_ino))
    return "/".join(parts)
