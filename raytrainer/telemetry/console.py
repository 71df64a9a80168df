"""What users see in the terminal during a run.

On a terminal: one live line at the bottom, everything worth keeping above it. In a notebook: one output that is
replaced (``telemetry.notebook_page``). Anywhere else (a file, a job's log): plain lines only, no carriage returns, and
progress lines only rarely. What is worth keeping goes to stdout, where transformers prints its logs; the live line,
progress and warnings go to stderr, as with tqdm.

Rendering must never harm training: a terminal that is gone ends the output and nothing else.
"""

from __future__ import annotations

import logging
import numbers
import os
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TextIO

from raytrainer.storage.locations import split
from raytrainer.telemetry.events import (
    CheckpointCommitted,
    EngagedRow,
    Logged,
    Note,
    PredictionDone,
    PredictionStep,
    StepDone,
    TrainEnded,
    TrainStarted,
)
from raytrainer.telemetry.formatting import (
    UNICODE,
    Paint,
    format_bytes,
    format_duration,
    glyphs_for,
    wants_color,
)
from raytrainer.telemetry.live_line import LiveLine
from raytrainer.telemetry.loglines import LogLines
from raytrainer.telemetry.notebook_cell import in_notebook
from raytrainer.telemetry.notebook_page import WIDTH, NotebookPage
from raytrainer.telemetry.progress import (
    LineStyle,
    PredictionProgress,
    TrainProgress,
    fraction_done,
    prediction_line,
    train_line,
)
from raytrainer.telemetry.settings_table import MAX_WIDTH, engaged_table
from raytrainer.telemetry.summary import RunFacts, is_evaluation, run_summary

logger = logging.getLogger(__name__)

REDRAW_INTERVAL_S = 0.08
"""The live line changes at most this often [s], so that it can be read."""

PLAIN_INTERVAL_S = 10.0
"""Without a terminal, progress lines are at least this far apart [s] ..."""

PLAIN_SHARE = 0.1
"""... and this fraction of the work, or ..."""

PLAIN_PATIENCE_S = 300.0
"""... this time [s], whichever comes first."""

_UNLIMITED = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class Shown:
    """Which of the things are shown that a user can switch off."""

    progress: bool = True
    """The live line, or lines of progress."""
    logs: bool = True
    """A line for each call of ``log``."""


class Renderer:
    """Renders the events of a run. May be called from several threads.

    Args:
        stream: Where permanent lines go; stdout by default.
        progress_stream: Where the live line, progress and warnings go; ``stream`` if that is given, else stderr.
        shown: Says, whenever something is to be drawn, what is shown.
        width: Width of the terminal [columns]; looked up for each line by default.
        clock: A monotonic clock [s].
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        *,
        progress_stream: TextIO | None = None,
        shown: Callable[[], Shown] = Shown,
        width: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._out = stream or sys.stdout
        self._err = progress_stream or stream or sys.stderr
        self._shown = shown
        self._width = width
        self._clock = clock
        is_page = stream is None and progress_stream is None and in_notebook()
        self._page = NotebookPage(clock) if is_page else None
        self._is_live = is_page or _is_terminal(self._err)
        self._glyphs = glyphs_for(self._out)
        self._paint = Paint(wants_color(_is_terminal(self._out)))
        self._err_paint = Paint(wants_color(_is_terminal(self._err)))
        self._line_style = LineStyle(glyphs_for(self._err), self._err_paint, with_bar=self._is_live)
        self._log_lines = LogLines(self._paint)
        self._live = LiveLine(self._err)
        self._dead_streams: set[int] = set()

        self._train: TrainProgress | None = None
        self._prediction: PredictionProgress | None = None
        self._rows: list[EngagedRow] = []
        self._eval_metrics: dict[str, object] = {}
        self._eval_step: int | None = None
        self._held: list[str] = []
        self._last_loss: object | None = None
        self._drawn_at = -REDRAW_INTERVAL_S
        self._plain_at = clock()
        self._plain_share = 0.0

        self._render: dict[type, Callable[..., None]] = {
            TrainStarted: self._train_started,
            StepDone: self._step_done,
            Logged: self._logged,
            PredictionStep: self._prediction_step,
            PredictionDone: self._prediction_done,
            CheckpointCommitted: self._committed,
            Note: self._note,
            TrainEnded: self._train_ended,
        }

    def handle(self, event: object) -> None:
        """Show an event; anything that is not an event of ``telemetry.events`` is ignored. Never raises."""
        render = self._render.get(type(event))
        if render is None:
            return
        try:
            with self._live.lock:
                render(event)
        except Exception:  # Rendering must never end a run.
            # Outside of the lock: logging takes locks of its own.
            logger.debug("Could not render %r.", event, exc_info=True)

    def close(self) -> None:
        """Remove the live line and restore the streams. A later event shows it again."""
        with self._live.lock:
            self._train = None
            self._prediction = None
            self._show_held()
            self._hide_line()

    # ---- Events ---------------------------------------------------------------------------------------------

    def _train_started(self, event: TrainStarted) -> None:
        came_from = split(event.resumed_from)[1] if event.resumed_from else None
        position = f"step {event.first_step} of {event.max_steps}"
        self._show_held()
        if event.attempt == 0:
            self._last_loss = None
            self._eval_metrics = {}
        if event.attempt == 0 or not self._rows:
            self._show_table(event.rows)
        if event.attempt > 0:
            origin = f"from {came_from}, {position}" if came_from else "from the beginning"
            self._keep(self._paint.warn(f"restarted (attempt {event.attempt + 1}) {origin}"))
            self._show_changes(event.rows)
        elif came_from:
            self._keep(f"resumed from {came_from}, {position}")
        self._rows = list(event.rows)
        self._train = TrainProgress(step=event.first_step, max_steps=event.max_steps, epoch=0.0)
        self._prediction = None
        self._start_plain(fraction_done(event.first_step, event.max_steps))
        if self._is_live:
            self._redraw(now=True)

    def _step_done(self, event: StepDone) -> None:
        if self._train is None:
            return  # It came after the end, or after close(): the line must stay hidden.
        self._train = replace(
            self._train,
            step=event.step,
            max_steps=event.max_steps,
            epoch=event.epoch,
            samples_per_s=event.samples_per_s or self._train.samples_per_s,
            eta_s=event.eta_s,
        )
        self._prediction = None
        self._progress(fraction_done(event.step, event.max_steps))

    def _logged(self, event: Logged) -> None:
        if is_evaluation(event.logs):
            self._evaluated(event)
        loss = event.logs.get("loss")
        if loss is not None:
            self._last_loss = loss
        if self._train is not None:
            self._train = replace(
                self._train,
                step=max(self._train.step, event.step),
                epoch=_number(event.logs.get("epoch"), self._train.epoch) or 0.0,
                loss=_number(loss, self._train.loss),
                learning_rate=_number(event.logs.get("learning_rate"), self._train.learning_rate),
            )
        if not self._shown().logs or (self._has_screen and "train_runtime" in event.logs):
            return  # The second is shown by the summary, which comes next.
        self._log_lines.width = self._columns(self._out) if self._has_screen else None
        line = self._log_lines.format(event.step, event.max_steps, event.logs)
        if line and self._is_last_evaluation(event):
            self._held.append(line)
        elif line:
            # Outside of training nothing follows it.
            self._keep(line, passes=self._train is not None)

    def _evaluated(self, event: Logged) -> None:
        """Several data sets are evaluated at one step."""
        if self._eval_step != event.step:
            self._eval_metrics = {}
        self._eval_step = event.step
        self._eval_metrics.update(event.logs)

    def _is_last_evaluation(self, event: Logged) -> bool:
        """Whether the summary, which a terminal shows below, says the same."""
        is_at_end = self._train is not None and 0 < event.max_steps <= event.step
        return is_at_end and is_evaluation(event.logs) and self._has_screen

    def _show_held(self) -> None:
        """Show evaluations that were left to a summary, if none came."""
        for line in self._held:
            self._keep(line)
        self._held.clear()

    def _prediction_step(self, event: PredictionStep) -> None:
        share = fraction_done(event.done, event.total)
        if self._prediction is None or self._prediction.description != event.description:
            self._start_plain(0.0)
        self._prediction = PredictionProgress(
            description=event.description, done=event.done, total=event.total
        )
        self._progress(share)

    def _prediction_done(self, _: PredictionDone) -> None:
        self._prediction = None
        if self._train is None:
            self._hide_line()
        else:
            self._start_plain(fraction_done(self._train.step, self._train.max_steps))
            if self._is_live:
                self._redraw(now=True)

    def _committed(self, event: CheckpointCommitted) -> None:
        name = split(event.path)[1]
        facts = f"{format_bytes(event.num_bytes)}, {format_duration(event.seconds)}"
        if event.waited_s is not None:
            facts += f"; training waited {format_duration(event.waited_s)}"
        self._keep(f"{self._paint.good(name)} committed {self._paint.dim(f'({facts})')}", passes=True)

    def _note(self, event: Note) -> None:
        if event.level == "warning":
            self._keep(self._err_paint.warn(f"warning: {event.text}"), self._err)
        else:
            self._keep(event.text)

    def _train_ended(self, event: TrainEnded) -> None:
        train = self._train
        self._train = None
        self._prediction = None
        self._held.clear()
        self._hide_line()
        epoch = event.metrics.get("epoch")
        facts = RunFacts(
            step=event.step,
            max_steps=train.max_steps if train else 0,
            epoch=_number(epoch, train.epoch if train else None),
            interrupted=event.interrupted,
            metrics=event.metrics,
            last_loss=self._last_loss,
            eval_metrics=self._eval_metrics,
            places=event.places,
        )
        width = self._columns(self._out) if _is_terminal(self._out) else MAX_WIDTH
        self._keep("\n" + run_summary(facts, width=width, utf8=self._glyphs is UNICODE, paint=self._paint))

    # ---- The table ------------------------------------------------------------------------------------------

    def _show_table(self, rows: list[EngagedRow]) -> None:
        if not rows:
            return
        width = self._columns(self._out) if _is_terminal(self._out) else MAX_WIDTH
        table = engaged_table(rows, width=width, utf8=self._glyphs is UNICODE)
        bad = f"{self._glyphs.bad} "
        self._keep("\n".join(self._paint.warn(line) if bad in line else line for line in table.split("\n")))

    def _show_changes(self, rows: list[EngagedRow]) -> None:
        """After a restart: only the settings that differ now."""
        before = {row.what: row.engaged for row in self._rows}
        changes = [
            f"{row.what} {before[row.what]} -> {row.engaged}"
            for row in rows
            if row.what in before and before[row.what] != row.engaged
        ]
        if changes:
            self._keep(self._paint.warn(f"engaged now: {'; '.join(changes)}"))

    # ---- Progress -------------------------------------------------------------------------------------------

    def _progress(self, share: float) -> None:
        if not self._shown().progress:
            return
        if self._is_live:
            self._redraw()
            return
        now = self._clock()
        waited_s = now - self._plain_at
        if waited_s < PLAIN_INTERVAL_S:
            return
        if share - self._plain_share >= PLAIN_SHARE - 1e-9 or waited_s >= PLAIN_PATIENCE_S:
            self._start_plain(share)
            self._keep(self._current_line(_UNLIMITED), self._err)

    def _start_plain(self, share: float) -> None:
        self._plain_at = self._clock()
        self._plain_share = share

    def _redraw(self, *, now: bool = False) -> None:
        if not self._shown().progress:
            return
        time_s = self._clock()
        if now or time_s - self._drawn_at >= REDRAW_INTERVAL_S:
            self._drawn_at = time_s
            # One column stays free: a full line would wrap on some terminals.
            line = self._current_line(self._columns(self._err) - 1)
            if self._page is not None:
                self._page.show(line)
            else:
                self._live.show(line)

    def _hide_line(self) -> None:
        if self._page is not None:
            self._page.hide()
        self._live.hide()

    def _current_line(self, width: int) -> str:
        if self._prediction is not None:
            return prediction_line(self._prediction, self._line_style, width)
        return train_line(self._train, self._line_style, width) if self._train else ""

    # ---- Writing --------------------------------------------------------------------------------------------

    @property
    def _has_screen(self) -> bool:
        """Somebody looks at it while it comes, and sees all of it: a terminal or a notebook, and not a file."""
        return self._page is not None or _is_terminal(self._out)

    def _keep(self, text: str, stream: TextIO | None = None, *, passes: bool = False) -> None:
        """Write permanent lines, above the live line if it is shown.

        Args:
            text: The lines.
            stream: Where they go; stdout by default.
            passes: A notebook leaves them out when enough others have come.
        """
        if self._page is not None:
            self._page.keep(text, passes=passes)
            return
        target = self._out if stream is None else stream
        if not _is_terminal(target):
            self._write_line(target, text)
            return
        with self._live.lifted():
            self._write_line(target, text)

    def _write_line(self, stream: TextIO, text: str) -> None:
        if id(stream) in self._dead_streams:
            return
        encoding = getattr(stream, "encoding", None) or "utf-8"
        try:
            # A stream that is not UTF-8 gets question marks for what it cannot encode.
            stream.write(text.encode(encoding, "replace").decode(encoding) + "\n")
            stream.flush()
        except (OSError, ValueError):  # Broken pipe, closed file.
            self._dead_streams.add(id(stream))

    def _columns(self, stream: TextIO) -> int:
        if self._width is not None:
            return self._width
        if self._page is not None:
            return WIDTH
        try:
            return os.get_terminal_size(stream.fileno()).columns or shutil.get_terminal_size().columns
        except (OSError, ValueError):
            return shutil.get_terminal_size().columns


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty() and os.environ.get("TERM") != "dumb"
    except (AttributeError, ValueError):  # A stream without isatty, or a closed one.
        return False


def _number(value: object, otherwise: float | None) -> float | None:
    return float(value) if isinstance(value, numbers.Real) else otherwise
