"""One line at the bottom of a terminal that is rewritten in place while other output passes above it.

Other output is everything: our log lines, the user's ``print``, log records, what Ray forwards from the workers. Each
of them would otherwise land in the middle of the line. So, while the line is shown, ``sys.stderr``, ``sys.stdout`` and
the stream handlers of loggers that point to them are guarded: a write first removes the line and then shows it again.
This happens only on a terminal, and is undone as soon as the line is hidden.

A terminal that is gone only ends the line; no error leaves this file. It never takes a logging lock while it holds its
own lock, because a handler that is writing waits for that one.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import sys
import threading
from collections.abc import Generator, Iterable
from typing import Any, TextIO

_TO_START = "\r"
_ERASE_REST = "\x1b[K"


class LiveLine:
    """The line. All methods may be called from any thread.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self.lock = threading.RLock()
        self._stream = stream
        self._text = ""
        self._is_drawn = False
        self._is_dead = False
        self._foreign_line_is_open = False
        self._guarded: dict[str, TextIO] = {}
        self._handlers: list[tuple[logging.StreamHandler[Any], TextIO]] = []

    def show(self, text: str) -> None:
        """Show the line, or rewrite it. ``text`` must fit into one line of the terminal."""
        with self.lock:
            self._text = text
            self._guard()
            self._draw()

    def hide(self) -> None:
        """Remove the line and stop guarding."""
        with self.lock:
            self._erase()
            self._text = ""
            self._unguard()

    @contextlib.contextmanager
    def lifted(self) -> Generator[None, None, None]:
        """Inside the context the line is removed, so that whole lines may be written to the terminal."""
        with self.lock:
            self._erase()
            if self._foreign_line_is_open and self._text:
                self._write("\n")
            self._foreign_line_is_open = False
            yield
            self._draw()

    def pass_through(self, stream: TextIO, text: str) -> int:
        """Write other output to the terminal, above the line."""
        with self.lock:
            self._erase()
            written = stream.write(text)
            if text:
                self._foreign_line_is_open = not text.endswith("\n")
            if self._text and not self._foreign_line_is_open:
                stream.flush()
                self._draw()
            return written

    # ---- Drawing (the lock is held) -------------------------------------------------------------------------

    def _draw(self) -> None:
        # An open line of somebody else (a prompt, another progress bar) is left alone until it ends.
        if self._text and not self._foreign_line_is_open:
            self._is_drawn = self._write(_TO_START + self._text + _ERASE_REST)

    def _erase(self) -> None:
        if self._is_drawn:
            self._is_drawn = False
            self._write(_TO_START + _ERASE_REST)

    def _write(self, text: str) -> bool:
        if self._is_dead:
            return False
        try:
            self._stream.write(text)
            self._stream.flush()
        except (OSError, ValueError):  # Broken pipe, closed file.
            self._is_dead = True
        return not self._is_dead

    # ---- Guarding -------------------------------------------------------------------------------------------

    def _guard(self) -> None:
        if self._guarded or self._stream is not sys.stderr:
            return
        # A process that ends without hide() must not leave the line below its traceback.
        atexit.register(self.hide)
        for name in ("stderr", "stdout"):
            stream = getattr(sys, name)
            if stream is not None and stream.isatty():
                self._guarded[name] = stream
                setattr(sys, name, _Guard(stream, self))
        for handler in _stream_handlers():
            for name, stream in self._guarded.items():
                if handler.stream is stream:
                    # Plain assignment: setStream() takes the handler's lock, see the module's docstring.
                    handler.stream = getattr(sys, name)
                    self._handlers.append((handler, stream))

    def _unguard(self) -> None:
        atexit.unregister(self.hide)
        for handler, stream in self._handlers:
            if isinstance(handler.stream, _Guard):
                handler.stream = stream
        self._handlers.clear()
        for name, stream in self._guarded.items():
            # If someone replaced the stream meanwhile, the replacement stays; a guard below it just passes through.
            if isinstance(getattr(sys, name), _Guard):
                setattr(sys, name, stream)
        self._guarded.clear()


class _Guard:
    """Replaces a terminal stream while a live line is shown; everything but writing goes straight to the stream."""

    def __init__(self, stream: TextIO, live: LiveLine) -> None:
        self._stream = stream
        self._live = live

    def write(self, text: str) -> int:
        return self._live.pass_through(self._stream, text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _stream_handlers() -> list[logging.StreamHandler[Any]]:
    loggers = [logging.root, *list(logging.root.manager.loggerDict.values())]
    return [
        handler
        for known in loggers
        if isinstance(known, logging.Logger)
        for handler in known.handlers
        # The last resort looks up sys.stderr by itself and cannot be assigned.
        if isinstance(handler, logging.StreamHandler) and handler is not logging.lastResort
    ]
