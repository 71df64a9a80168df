"""Which spans a call on a trainer has, and what each of them says: OpenTelemetry's traces of a run.

They are made of the events that the process which shows the run gets anyway, so that a worker that is killed takes no
span with it. The tree is

    train                    the call, from its first moment to its last
      attempt                one start of the workers, with the cause of its end
        start-up             until the first step can be taken; after a death "restart", with other workers "resize"
          joins Ray ...      what the driver and rank 0 went through
        training             the steps
          evaluation
          save               staging, writing, hashing, upload, commit
        evaluation, prediction   of a call that does not train

There is never one span per step. A phase that began and did not end when its attempt died ends then, with an error.

Texts go through ``telemetry.redaction``. Which calls have a trace, ``driver.traced_calls`` says.
"""

from __future__ import annotations

import contextlib
import logging
import numbers
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from raytrainer.telemetry.events import (
    Busy,
    CheckpointCommitted,
    Logged,
    Note,
    Phase,
    PredictionDone,
    StepDone,
    TrainEnded,
    TrainFailed,
    TrainStarted,
)
from raytrainer.telemetry.formatting import is_evaluation
from raytrainer.telemetry.otlp import Traces, parent
from raytrainer.telemetry.redaction import redacted_text
from raytrainer.telemetry.startup import here

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from raytrainer.arguments.training_arguments import TrainingArguments

logger = logging.getLogger(__name__)

PREFIX = "raytrainer."
"""Of the names of attributes."""
SAVE = "a save"
"""As ``Busy`` calls it."""
_EVALUATIONS = ("evaluation", "prediction")
_LEAVES = ("restart", "move")
_MAX_TEXT = 1000
"""How much of a text is sent [characters]."""
END_S = 0.2
"""How long a call that has ended lets its spans be sent [s]; the process goes on sending."""


class RunTrace:
    """The spans of one call.

    Args:
        args: Name the run.
        method: That was called.
        traces: Makes spans and sends them.
        tell: Shows an event.
        began: When the call began [s since the epoch].
        run_id: Names the call, once that is known.
    """

    def __init__(
        self,
        args: TrainingArguments,
        method: str,
        traces: Traces,
        tell: Callable[[object], None],
        *,
        began: float,
        run_id: Callable[[], str] = str,
    ) -> None:
        self._traces = traces
        self._tell = tell
        self._run_id = run_id
        self._began = began
        self._step: int | None = None
        self._workers: int | None = None
        self._cause: str | None = None
        """Why the attempt that runs is about to end."""
        self._saving: float | None = None
        """When a save began that is not committed."""
        self._predicted: float | None = None
        """When the evaluation that is open had done its last batch."""
        location = str(args.output_dir)
        self._root = self._start(
            method, began, parent_context=parent(), run=str(args.run_name or location), output_dir=location
        )
        self._attempt: Span | None = None
        self._starting: Span | None = None
        self._training: Span | None = None
        self._evaluating: Span | None = None
        self._begin_attempt("start-up", began)

    @property
    def trace_id(self) -> str:
        """As tools that show traces print it."""
        return f"{self._root.get_span_context().trace_id:032x}"

    @property
    def is_sampled(self) -> bool:
        """Whether anything is sent."""
        return self._root.is_recording()

    def handle(self, event: object) -> None:
        """Take over an event. An error is logged: a span is never worth a run."""
        with _logged():
            self._take(event)
        self.tell_of_trouble()

    def tell_of_trouble(self) -> None:
        """Say once that spans cannot be sent."""
        trouble = self._traces.trouble()
        if trouble is not None:
            text = f"traces are not sent ({trouble}); the run goes on without them"
            self._tell(Note(text=text, level="warning"))

    def end(self, error: BaseException | None = None, ended: float | None = None) -> None:
        """The call is over.

        Args:
            error: That it ended with.
            ended: When [s since the epoch]; now by default.
        """
        now = time.time() if ended is None else ended
        with _logged():
            cause = None if error is None else _first_line(f"{type(error).__name__}: {error}")
            is_interrupt = isinstance(error, KeyboardInterrupt | SystemExit)
            if is_interrupt:
                _set(self._root, interrupted=True)
            self._end_attempt(now, self._cause or cause, is_error=cause is not None and not is_interrupt)
            _set(self._root, run_id=self._run_id() or None, last_step=self._step)
            self._end(self._root, now, None if is_interrupt else cause)
            self._traces.send(END_S)
        self.tell_of_trouble()

    # ---- what events mean ---------------------------------------------------------------------------------------

    def _take(self, event: object) -> None:
        if self._predicted is not None and not isinstance(event, PredictionDone):
            self._end_evaluation(event)
        if isinstance(event, StepDone | Logged):
            self._step = event.step
        elif isinstance(event, TrainStarted):
            self._train(event)
        elif isinstance(event, Busy):
            self._begin_phase(event)
        elif isinstance(event, PredictionDone):
            self._predicted = event.at
        elif isinstance(event, CheckpointCommitted):
            self._saved(event)
        elif isinstance(event, Note):
            self._note(event)
        elif isinstance(event, TrainFailed):
            self._cause = f"{event.type_name}: {event.text}"
        elif isinstance(event, TrainEnded):
            self._step = event.step
            self._end_training(event)

    def _train(self, event: TrainStarted) -> None:
        if self._attempt is None:
            self._begin_attempt("restart", event.at)
        if self._workers is not None and self._workers != event.num_workers and self._starting is not None:
            self._starting.update_name("resize")
        self._workers, self._step = event.num_workers, event.first_step
        began = getattr(self._starting, "start_time", 0) / 1e9
        driver = [phase for phase in here.known() if phase.began >= self._began] if event.attempt == 0 else []
        phases = driver + [phase for phase in event.phases if phase.ended > began and phase not in driver]
        self._phases(self._starting, phases)
        self._end_starting(event.at)
        facts = {
            "attempt": event.attempt,
            "workers": event.num_workers,
            "first_step": event.first_step,
            "max_steps": event.max_steps,
            "resumed_from": event.resumed_from,
        }
        _set(self._attempt, **facts)
        _set(self._root, workers=event.num_workers, max_steps=event.max_steps, attempts=event.attempt + 1)
        if self._training is None:
            self._training = self._start("training", event.at, self._attempt, first_step=event.first_step)

    def _begin_phase(self, event: Busy) -> None:
        if event.what == SAVE:
            self._saving = self._saving or event.at
        elif event.what in _EVALUATIONS:
            self._end_starting(event.at)
            if self._evaluating is None:
                above = self._training or self._attempt or self._root
                self._evaluating = self._start(event.what, event.at, above)
        elif self._attempt is None:
            self._begin_attempt("restart", event.at)

    def _end_evaluation(self, event: object) -> None:
        """What was evaluated is known: by what it logs, or because something else happens."""
        ended, self._predicted = self._predicted, None
        if isinstance(event, Logged) and is_evaluation(event.logs):
            ended = event.at
            _set(self._evaluating, step=event.step, **_numbers(event.logs))
        self._end(self._evaluating, ended)
        self._evaluating = None

    def _saved(self, event: CheckpointCommitted) -> None:
        self._saving = None
        self._step = max(self._step or 0, event.step)
        span = self._start(
            "save",
            event.at - event.seconds,
            self._training or self._attempt or self._root,
            step=event.step,
            path=event.path,
            bytes=event.num_bytes,
            waited_s=event.seconds if event.waited_s is None else event.waited_s,
            beside_training=event.waited_s is not None,
        )
        self._phases(span, event.phases)
        self._end(span, event.at)

    def _note(self, event: Note) -> None:
        text = redacted_text(event.text)[:_MAX_TEXT]
        if event.kind in _LEAVES:
            self._end_attempt(event.at, text, is_error=event.kind == "restart")
            self._begin_attempt("restart", event.at)
        elif event.level == "warning":
            self._root.add_event(event.kind or "warning", {"text": text}, timestamp=_ns(event.at))

    def _end_training(self, event: TrainEnded) -> None:
        _set(self._training, last_step=event.step, interrupted=event.interrupted or None)
        _set(self._root, interrupted=event.interrupted or None, **_numbers(event.metrics))
        self._end(self._training, event.at)
        self._training = None

    # ---- spans --------------------------------------------------------------------------------------------------

    def _begin_attempt(self, phase: str, began: float) -> None:
        self._attempt = self._start("attempt", began, self._root)
        self._starting = self._start(phase, began, self._attempt)
        self._cause = None

    def _end_attempt(self, ended: float, cause: str | None, *, is_error: bool) -> None:
        """All that is open ends."""
        if self._saving is not None:
            save = self._start("save", self._saving, self._training or self._attempt, step=self._step)
            self._end(save, ended, cause or "not committed")
            self._saving = None
        error = cause if is_error else None
        self._end(self._evaluating, self._predicted or ended, error)
        _set(self._training, last_step=self._step)
        for span in (self._training, self._starting):
            self._end(span, ended, error)
        _set(self._attempt, last_step=self._step, cause=cause)
        self._end(self._attempt, ended, error)
        self._attempt = self._starting = self._training = self._evaluating = None
        self._predicted = None

    def _end_starting(self, ended: float) -> None:
        self._end(self._starting, ended)
        self._starting = None

    def _phases(self, above: Span | None, phases: Sequence[Phase]) -> None:
        if above is not None:
            for phase in phases:
                self._end(self._start(phase.name, phase.began, above), phase.ended)

    def _start(
        self,
        name: str,
        began: float,
        above: Span | None = None,
        *,
        parent_context: Any = None,
        **facts: object,
    ) -> Span:
        from opentelemetry.trace import set_span_in_context

        context = parent_context if above is None else set_span_in_context(above)
        span = self._traces.tracer.start_span(name, context=context, start_time=_ns(began))
        _set(span, **facts)
        return span

    def _end(self, span: Span | None, ended: float | None, error: str | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        if span is None or not span.is_recording():
            return
        if error is not None:
            span.set_status(Status(StatusCode.ERROR, redacted_text(error)[:_MAX_TEXT]))
        # Of another machine, whose clock may be behind.
        span.end(max(_ns(time.time() if ended is None else ended), getattr(span, "start_time", 0)))


def _set(span: Span | None, **facts: object) -> None:
    """Set the attributes that are known."""
    if span is not None:
        for name, value in facts.items():
            if value is not None:
                plain = (
                    value if isinstance(value, bool | int | float) else redacted_text(str(value))[:_MAX_TEXT]
                )
                span.set_attribute(f"{PREFIX}{name}", plain)


def _numbers(values: Mapping[str, object]) -> dict[str, float]:
    return {name: float(value) for name, value in values.items() if isinstance(value, numbers.Real)}


def _first_line(text: str) -> str:
    return text.strip().split("\n", 1)[0]


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)


@contextlib.contextmanager
def _logged() -> Generator[None]:
    """Log an exception of the block, and go on."""
    try:
        yield
    except Exception:
        logger.debug("A span is lost.", exc_info=True)
