"""How what Ray brings to the driver's terminal looks there: what workers print, and what Ray says of them.

Ray marks these lines with color wherever they go, also in a file or the log of a job, and tells of each worker that
dies in some twelve lines, most of which are the same every time, and of a node by its number of 56 digits. The run
says who died and what follows; so Ray's words are cut to which process or node it was, and why. All of them are in
Ray's logs.

When this process ends it ends its workers, some of them within one of Ray's calls. Ray takes that for a bug of its own
and prints the stack of its C++ code. It is nobody's news below a run that went well, so from then on a process that
begins to print one is not heard any more.

This wraps a function of Ray's. If it is gone one day, Ray's lines look as Ray has them.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import Any

from raytrainer.driver.ray_deaths import UNHEARD, in_words

_MARKED = re.compile(r"^\x1b\[\d+m(\([^)]*\))\x1b\[0m")
_REPEATED = re.compile(r"\x1b\[32m( \[repeated .*)\x1b\[0m$", re.DOTALL)
_DEATH = re.compile(
    r"A worker died or was killed while executing a task.*Worker PID: (?P<pid>\d+).*"
    r"Worker exit detail: (?P<detail>.*?)\s*Some common causes include:.*",
    re.DOTALL,
)

_NODE_DEATH = re.compile(
    r"The node with node id: (?P<id>\w{1,6})\w* and address: (?P<address>\S+) and node name: .* has been marked dead "
    r"because the detector has missed too many heartbeats from it\..*",
    re.DOTALL,
)


_CRASH = ("You have likely discovered a bug in Ray", "SIGABRT received", "Unhandled exception: St", "*** SIG")
"""With one of these Ray's C++ code begins to tell how it failed."""
_DIED = "A worker died"


class _LastWords:
    """What is shown of the processes that this one ends."""

    def __init__(self) -> None:
        self._is_ending = False
        self._crashed: set[object] = set()

    def begin(self) -> None:
        """This process ends, and with it those that it started."""
        self._is_ending = True

    def kept(self, pid: object, lines: list[str]) -> list[str]:
        """Those lines of a process that are shown."""
        if not self._is_ending:
            return lines
        if pid == "raylet":
            return [line for line in lines if not line.startswith(_DIED)]
        if pid in self._crashed:
            return []
        for number, line in enumerate(lines):
            if any(mark in line for mark in _CRASH):
                self._crashed.add(pid)
                return lines[:number]
        return lines


_last_words = _LastWords()


def drop_crashes() -> None:
    """This process ends: from now on do not show how the processes that end with it fail."""
    _last_words.begin()


def tidy_ray_output() -> None:
    """From now on lines that Ray brings are plain where no colors are wanted, and short where somebody has died."""
    import ray

    worker: Any = getattr(getattr(ray, "_private", None), "worker", None)
    printing: Callable[..., None] | None = getattr(worker, "print_worker_logs", None)
    if printing is None or hasattr(printing, "__wrapped__"):
        return

    @functools.wraps(printing)
    def print_tidily(data: dict[str, Any], print_file: Any, *args: Any, **kwargs: Any) -> None:
        from raytrainer.telemetry.paint import wants_style

        lines: list[str] = data.get("lines", [])
        if data.get("pid") == "raylet":
            lines = [shortened(line) for line in lines]
        kept = _last_words.kept(data.get("pid"), lines)
        if lines and not kept:
            return
        data = {**data, "lines": kept}
        printing(data, print_file if wants_style(print_file) else _Plain(print_file), *args, **kwargs)

    worker.print_worker_logs = print_tidily


def shortened(text: str) -> str:
    """What Ray says of a worker or a node that has died, without what it says of each; any other text as it is."""
    text = _DEATH.sub(r"A worker died (PID \g<pid>): \g<detail>", in_words(text))
    return _NODE_DEATH.sub(rf"Node \g<address> (\g<id>) {UNHEARD}. What ran there ended with it.", text)


def plain(text: str) -> str:
    """A line without the colors that Ray has added; those of whoever printed it stay."""
    return _REPEATED.sub(r"\1", _MARKED.sub(r"\1", text))


class _Plain:
    """A stream that gets lines without Ray's colors."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(plain(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
