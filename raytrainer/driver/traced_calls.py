"""Which calls on a trainer have a trace: those of a process in which an endpoint of OpenTelemetry is set.

Of one call within another there is one trace, and a sweep is one with its trials below. What its spans say is in
``driver.traces``, and where they are sent in ``telemetry.otlp``.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

from raytrainer.driver.traces import END_S, PREFIX, RunTrace
from raytrainer.telemetry.events import Note
from raytrainer.telemetry.otlp import NoTracesError, as_parent, endpoint, open_traces, parent
from raytrainer.telemetry.redaction import redacted_text

if TYPE_CHECKING:
    from raytrainer.arguments.training_arguments import TrainingArguments

logger = logging.getLogger(__name__)

_told: set[str] = set()
"""What this process has said about its endpoint."""


class CallTraces:
    """The traces of the calls on a trainer that runs in this process: of one call within another there is one.

    Args:
        args: Of the trainer; they may change between calls.
        run_id: Names the call that runs.
        tell: Shows an event.
    """

    def __init__(
        self,
        args: Callable[[], TrainingArguments],
        run_id: Callable[[], str],
        tell: Callable[[object], None],
    ) -> None:
        self._args = args
        self._run_id = run_id
        self._tell = tell
        self._trace: RunTrace | None = None
        self._began: float | None = time.time()
        """The first call began before the trainer was set up."""

    def handle(self, event: object) -> None:
        """Take over an event."""
        if self._trace is not None:
            self._trace.handle(event)

    @contextlib.contextmanager
    def call(self, method: str) -> Generator[None]:
        """The block is a call."""
        if self._trace is not None:
            yield
            return
        began, self._began = self._began or time.time(), None
        with traced(self._args(), method, self._tell, began=began, run_id=self._run_id) as self._trace:
            try:
                yield
            finally:
                self._trace = None


@contextlib.contextmanager
def traced(
    args: TrainingArguments,
    method: str,
    tell: Callable[[object], None],
    *,
    began: float | None = None,
    run_id: Callable[[], str] = str,
) -> Generator[RunTrace | None]:
    """The block is a call, whose spans are sent if an endpoint is set.

    Args:
        args: Name the run.
        method: That is called.
        tell: Shows an event. What is wrong with the endpoint is told once.
        began: When [s since the epoch]; now by default.
        run_id: Names the call, once that is known.
    """
    where = endpoint()
    trace = None
    if where is not None:
        try:
            traces = open_traces(where)
            trace = RunTrace(args, method, traces, tell, began=began or time.time(), run_id=run_id)
        except NoTracesError as error:
            _tell_once(tell, f"{redacted_text(where)} is set as OpenTelemetry's endpoint, but {error}")
        except Exception:
            logger.debug("No trace of this call.", exc_info=True)
    if trace is not None and trace.is_sampled and method == "train":
        tell(Note(text=f"trace {trace.trace_id} goes to {redacted_text(str(where))}"))
    try:
        yield trace
    except BaseException as error:
        if trace is not None:
            trace.end(error)
        raise
    else:
        if trace is not None:
            trace.end()


@contextlib.contextmanager
def traced_sweep(args: TrainingArguments, tell: Callable[[object], None]) -> Generator[str | None]:
    """The block is a sweep: a span that the calls of its trials, in other processes, are below.

    Args:
        args: Of its trainer.
        tell: Shows an event. What is wrong with the endpoint is told once.

    Yields:
        ``TRACEPARENT`` for those processes; None where no endpoint is set.
    """
    where = endpoint()
    if where is None:
        yield None
        return
    try:
        traces = open_traces(where)
    except NoTracesError as error:
        _tell_once(tell, f"{redacted_text(where)} is set as OpenTelemetry's endpoint, but {error}")
        yield None
        return
    from opentelemetry.trace import use_span

    location = redacted_text(str(args.run_name or args.output_dir))
    span = traces.tracer.start_span("sweep", context=parent(), attributes={f"{PREFIX}run": location})
    try:
        with use_span(span, end_on_exit=True, record_exception=False):
            yield as_parent(span)
    finally:
        traces.send(END_S)
        trouble = traces.trouble()
        if trouble is not None:
            tell(Note(text=f"traces are not sent ({trouble})", level="warning"))


def _tell_once(tell: Callable[[object], None], text: str) -> None:
    if text not in _told:
        _told.add(text)
        tell(Note(text=text, level="warning"))
