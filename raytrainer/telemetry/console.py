"""What users see in the terminal during a run.

On a terminal: one live line at the bottom, everything worth keeping above it. In a notebook: one output that is
replaced (``telemetry.notebook_page``). Anywhere else (a file, a job's log): plain lines only, no carriage returns, and
progress lines only rarely. Where they go is decided in ``telemetry.output``.

Rendering must never harm training: an error of it is logged and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import numbers
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TextIO

from raytrainer.storage.locations import split
from raytrainer.telemetry.events import (
    Busy,
    CheckpointCommitted,
    EngagedRow,
    Logged,
    Note,
    PredictionDone,
    PredictionStep,
    StepDone,
    TrainEnded,
    TrainStarted,
    WaitBegun,
)
from raytrainer.telemetry.formatting import format_bytes, format_duration, is_evaluation, is_summary, wrapped
from raytrainer.telemetry.log_lines import LogLines, without_speed
from raytrainer.telemetry.log_rows import LogRows
from raytrainer.telemetry.output import Output
from raytrainer.telemetry.progress import (
    LineStyle,
    PredictionProgress,
    TrainProgress,
    Waiting,
    fraction_done,
    prediction_line,
    train_line,
    waiting_line,
)
from raytrainer.telemetry.settings_table import MAX_WIDTH, engaged_table
from raytrainer.telemetry.shown import Shown
from raytrainer.telemetry.summary import RunFacts, run_summary

logger = logging.getLogger(__name__)

REDRAW_INTERVAL_S = 0.08
"""The live line changes at most this often [s], so that it can be read."""

WAIT_INTERVAL_S = 0.25
"""While something is waited for, the live line changes this often [s]: nothing else shows that the process lives."""

PLAIN_INTERVAL_S = 10.0
"""Without a terminal, progress lines are at least this far apart [s] ..."""

PLAIN_SHARE = 0.1
"""... and this fraction of the work, or ..."""

PLAIN_PATIENCE_S = 300.0
"""... this time [s], whichever comes first."""

_UNLIMITED = 10_000


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
        self._output = Output(stream, progress_stream, width=width, clock=clock)
        self._shown = shown
        self._clock = clock
        self._is_live = self._output.has_live_line
        self._paint = self._output.paint
        self._line_style = LineStyle(
            self._output.progress_glyphs, self._output.progress_paint, with_bar=self._is_live
        )
        self._log_lines = LogLines(self._paint)
        self._log_rows = LogRows(self._paint)

        self._train: TrainProgress | None = None
        self._prediction: PredictionProgress | None = None
        self._wait: WaitBegun | None = None
        self._waits_since = 0.0
        self._ticker: threading.Thread | None = None
        self._rows: list[EngagedRow] = []
        self._eval_metrics: dict[str, object] = {}
        self._eval_step: int | None = None
        self._held: list[str] = []
        self._last_loss: object | None = None
        self._drawn_at = -REDRAW_INTERVAL_S
        self._plain_at = clock()
        self._plain_share = 0.0

        self._render: dict[type, Callable[..., None]] = {
            WaitBegun: self._wait_begun,
            Busy: self._busy,
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
            with self._output.lock:
                render(event)
        except Exception:  # Rendering must never end a run.
            # Outside of the lock: logging takes locks of its own.
            logger.debug("Could not render %r.", event, exc_info=True)

    def close(self) -> None:
        """Remove the live line and restore the streams. A later event shows it again."""
        with self._output.lock:
            self._train = self._wait = None
            self._show_held()
            self._output.hide_line()

    # ---- Events ---------------------------------------------------------------------------------------------

    def _wait_begun(self, event: WaitBegun) -> None:
        if self._wait is None:
            self._waits_since = self._clock()
        self._wait = event
        if self._is_live and self._shown().progress:
            self._redraw(now=True)
            self._ticker = self._ticker or _start_ticker(self.tick)

    def tick(self) -> bool:
        """Show how long something is waited for; False when nothing is."""
        with self._output.lock:
            if self._wait is None:
                self._ticker = None
                return False
            with contextlib.suppress(Exception):  # As in handle().
                self._redraw(now=True)
            return True

    def _busy(self, event: Busy) -> None:
        if self._wait is not None:
            self._wait = WaitBegun(what=f"waiting for {event.what}")

    def _train_started(self, event: TrainStarted) -> None:
        came_from = split(event.resumed_from)[1] if event.resumed_from else None
        position = f"step {event.first_step} of {event.max_steps}"
        self._wait = None
        self._show_held()
        if event.attempt == 0:
            self._last_loss = None
            self._eval_metrics = {}
        if event.attempt == 0 or not self._rows:
            self._show_table(event.rows)
        if event.attempt > 0:
            origin = f"from {came_from}, {position}" if came_from else "from the beginning"
            self._output.keep(self._paint.warn(f"restarted (attempt {event.attempt + 1}) {origin}"))
            self._show_changes(event.rows)
        elif came_from:
            is_done = event.first_step >= event.max_steps > 0
            left = (
                ": nothing is left to train, unless max_steps or num_train_epochs is raised"
                if is_done
                else ""
            )
            self._output.keep(f"resumed from {came_from}, {position}{left}")
        self._rows = list(event.rows)
        self._log_rows.restart()
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
        has_screen = self._output.is_screen()
        if not self._shown().logs or (has_screen and is_summary(event.logs)):
            return  # The second is shown by the summary, which comes next.
        line = self._on_screen(event) if has_screen else self._in_file(event)
        if line and self._is_last_evaluation(event):
            self._held.append(line)
        elif line:
            # Outside of training nothing follows it.
            self._output.keep(line, passes=self._train is not None)

    def _in_file(self, event: Logged) -> str:
        self._log_lines.width = None
        return self._log_lines.format(event.step, event.max_steps, event.logs)

    def _on_screen(self, event: Logged) -> str:
        width = self._output.columns()
        row = self._log_rows.format(event.step, event.max_steps, event.logs, width)
        if row is not None:
            return row
        self._log_lines.width = width
        logs, took = without_speed(event.logs) if is_evaluation(event.logs) else (event.logs, "")
        return self._log_lines.format(event.step, event.max_steps, logs, note=took)

    def _evaluated(self, event: Logged) -> None:
        """Several data sets are evaluated at one step."""
        if self._eval_step != event.step:
            self._eval_metrics = {}
        self._eval_step = event.step
        self._eval_metrics.update(event.logs)

    def _is_last_evaluation(self, event: Logged) -> bool:
        """Whether the summary, which a terminal shows below, says the same."""
        is_at_end = self._train is not None and 0 < event.max_steps <= event.step
        return is_at_end and is_evaluation(event.logs) and self._output.is_screen()

    def _show_held(self) -> None:
        """Show evaluations that were left to a summary, if none came."""
        for line in self._held:
            self._output.keep(line)
        self._held.clear()

    def _prediction_step(self, event: PredictionStep) -> None:
        share = fraction_done(event.done, event.total)
        if self._prediction is None or self._prediction.description != event.description:
            self._start_plain(0.0)
        self._wait = None
        self._prediction = PredictionProgress(
            description=event.description, done=event.done, total=event.total
        )
        self._progress(share)

    def _prediction_done(self, _: PredictionDone) -> None:
        self._prediction = None
        if self._train is None:
            self._output.hide_line()
        else:
            self._start_plain(fraction_done(self._train.step, self._train.max_steps))
            if self._is_live:
                self._redraw(now=True)

    def _committed(self, event: CheckpointCommitted) -> None:
        name = split(event.path)[1]
        facts = f"{format_bytes(event.num_bytes)}, {format_duration(event.seconds)}"
        if event.waited_s is not None:
            facts += f"; training waited {format_duration(event.waited_s)}"
        text = f"{self._paint.good(name)} committed {self._paint.dim(f'({facts})')}"
        self._output.keep(text, passes=True)

    def _note(self, event: Note) -> None:
        is_warning = event.level == "warning"
        text = f"warning: {event.text}" if is_warning else event.text
        if self._output.is_screen(to_err=is_warning):
            text = "\n".join(wrapped(text, self._output.columns(of_err=is_warning)))
        self._output.keep(self._output.progress_paint.warn(text) if is_warning else text, to_err=is_warning)
        if event.kind == "restart":
            self._wait_begun(WaitBegun(what="starting the workers again"))

    def _train_ended(self, event: TrainEnded) -> None:
        train = self._train
        self._train = self._wait = None
        self._prediction = None
        self._held.clear()
        self._output.hide_line()
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
        width, glyphs = self._output.columns(otherwise=MAX_WIDTH), self._output.glyphs
        self._output.keep("\n" + run_summary(facts, width=width, glyphs=glyphs, paint=self._paint))

    # ---- The table ------------------------------------------------------------------------------------------

    def _show_table(self, rows: list[EngagedRow]) -> None:
        if rows:
            width, glyphs = self._output.columns(otherwise=MAX_WIDTH), self._output.glyphs
            self._output.keep(engaged_table(rows, width=width, glyphs=glyphs, paint=self._paint))

    def _show_changes(self, rows: list[EngagedRow]) -> None:
        """After a restart: only the settings that differ now."""
        before = {row.what: row.engaged for row in self._rows}
        changes = [
            f"{row.what} {before[row.what]} -> {row.engaged}"
            for row in rows
            if row.what in before and before[row.what] != row.engaged
        ]
        if changes:
            self._output.keep(self._paint.warn(f"engaged now: {'; '.join(changes)}"))

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
            self._output.keep(self._current_line(_UNLIMITED), to_err=True)

    def _start_plain(self, share: float) -> None:
        self._plain_at = self._clock()
        self._plain_share = share

    def _redraw(self, *, now: bool = False) -> None:
        if not self._shown().progress:
            return
        time_s = self._clock()
        if now or time_s - self._drawn_at >= REDRAW_INTERVAL_S:
            self._drawn_at = time_s
            self._output.show_line(self._current_line)

    def _current_line(self, width: int) -> str:
        if self._wait is not None:
            waited = Waiting(what=self._wait.what, seconds=self._clock() - self._waits_since)
            return waiting_line(waited, self._line_style, width)
        if self._prediction is not None:
            return prediction_line(self._prediction, self._line_style, width)
        return train_line(self._train, self._line_style, width) if self._train else ""


def _start_ticker(tick: Callable[[], bool]) -> threading.Thread:
    """Call a function in a thread until it returns False."""

    def run() -> None:
        while tick():
            time.sleep(WAIT_INTERVAL_S)

    thread = threading.Thread(target=run, name="raytrainer-wait", daemon=True)
    thread.start()
    return thread


def _number(value: object, otherwise: float | None) -> float | None:
    return float(value) if isinstance(value, numbers.Real) else otherwise
