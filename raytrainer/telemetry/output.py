"""Where what is shown of a run goes: stdout and stderr with one live line at the bottom, or the page of a notebook.

What is worth keeping goes to stdout, where transformers prints its logs; the live line, progress and warnings go to
stderr, as with tqdm. A stream that is gone ends its output and nothing else.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import TextIO

from raytrainer.telemetry.live_line import LiveLine
from raytrainer.telemetry.notebook_cell import in_notebook
from raytrainer.telemetry.notebook_page import WIDTH, NotebookPage
from raytrainer.telemetry.paint import Glyphs, Paint, glyphs_for, is_screen, is_terminal, wants_style


class Output:
    """The streams of a run's display.

    Args:
        stream: Where permanent lines go; stdout by default.
        progress_stream: Where the live line, progress and warnings go; ``stream`` if that is given, else stderr.
        width: Width of the terminal [columns]; looked up for each line by default.
        clock: A monotonic clock [s].
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        progress_stream: TextIO | None = None,
        *,
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = stream or sys.stdout
        self._err = progress_stream or stream or sys.stderr
        self._width = width
        is_page = stream is None and progress_stream is None and in_notebook()
        self._page = NotebookPage(clock) if is_page else None
        self._live = LiveLine(self._err)
        self._gone: set[int] = set()
        # A page shows text as it is; a kernel asks for colors in its streams (FORCE_COLOR).
        self.paint, self.progress_paint = (
            Paint(not is_page and wants_style(stream)) for stream in (self._out, self._err)
        )
        self.glyphs: Glyphs = glyphs_for(self._out)
        self.progress_glyphs: Glyphs = glyphs_for(self._err)

    @property
    def lock(self) -> threading.RLock:
        """Held while something is shown, so that lines of several threads stay whole."""
        return self._live.lock

    @property
    def has_live_line(self) -> bool:
        """A line of progress can be written again."""
        return self._page is not None or is_terminal(self._err)

    def is_screen(self, *, to_err: bool = False) -> bool:
        """Somebody looks at it while it comes, and sees all of it: a terminal or a notebook, and not a file.

        Args:
            to_err: Where progress goes is meant.
        """
        return self._page is not None or is_screen(self._err if to_err else self._out)

    def columns(self, otherwise: int | None = None, *, of_err: bool = False) -> int:
        """Available width for permanent lines.

        Args:
            otherwise: The width of a file; that of a terminal by default.
            of_err: Where progress goes is meant.
        """
        if otherwise is not None and not self.is_screen(to_err=of_err):
            return otherwise
        return self._columns(self._err if of_err else self._out)

    def keep(self, text: str, *, to_err: bool = False, passes: bool = False) -> None:
        """Write permanent lines, above the live line if it is shown.

        Args:
            text: The lines.
            to_err: They go to where progress goes.
            passes: A notebook leaves them out when enough others have come.
        """
        if self._page is not None:
            self._page.keep(text, passes=passes)
            return
        stream = self._err if to_err else self._out
        if not is_terminal(stream):
            self._write_line(stream, text)
            return
        with self._live.lifted():
            self._write_line(stream, text)

    def show_line(self, line_of: Callable[[int], str]) -> None:
        """Show the live line, or rewrite it.

        Args:
            line_of: Makes it for a width [columns].
        """
        # One column stays free: a full line would wrap on some terminals.
        line = line_of(self._columns(self._err) - 1)
        if self._page is not None:
            self._page.show(line)
        else:
            self._live.show(line)

    def hide_line(self) -> None:
        """Remove the live line, and give the streams back."""
        if self._page is not None:
            self._page.hide()
        self._live.hide()

    def _write_line(self, stream: TextIO, text: str) -> None:
        if id(stream) in self._gone:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            # A stream that is not UTF-8 gets question marks for what it cannot encode.
            stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            stream.flush()
        except (OSError, ValueError):  # Broken pipe, closed file.
            self._gone.add(id(stream))

    def _columns(self, stream: TextIO) -> int:
        if self._width is not None:
            return self._width
        if self._page is not None:
            return WIDTH
        try:
            return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns
        except (OSError, ValueError):
            return shutil.get_terminal_size().columns
