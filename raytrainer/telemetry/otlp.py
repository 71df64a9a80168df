"""Where the spans of runs are sent: to the OTLP endpoint that OpenTelemetry's own variables name.

Nothing is imported, and no thread runs, unless ``OTEL_EXPORTER_OTLP_TRACES_ENDPOINT`` or
``OTEL_EXPORTER_OTLP_ENDPOINT`` is set. OpenTelemetry's SDK reads the others: ``OTEL_SERVICE_NAME`` (by default
"raytrainer"), ``OTEL_RESOURCE_ATTRIBUTES``, headers, certificates, timeouts, samplers, the size of the queue.
``OTEL_SDK_DISABLED=true`` and ``OTEL_TRACES_EXPORTER=none`` send nothing.

Spans wait in a queue of bounded length, and a thread of the SDK sends them. A run never waits for an endpoint; a
process that ends gives it ``EXIT_S``. What goes wrong is kept until the run asks for it, which tells it once: the SDK
would log each attempt. Nothing here draws from the random generators that a run seeds.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import random
import re
import sys
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from raytrainer.telemetry.redaction import redacted_text

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
    from opentelemetry.trace import Span, Tracer

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""The first that is set counts."""
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_EXPORTERS = {
    "http/protobuf": "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "grpc": "opentelemetry.exporter.otlp.proto.grpc.trace_exporter",
}
"""Protocol -> module of its ``OTLPSpanExporter``."""
SERVICE = "raytrainer"
EXIT_S = 3.0
"""How long a process that ends lets its last spans be sent [s]."""
_LOGGERS = (
    "opentelemetry.exporter.otlp.common.http",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.sdk._shared_internal",
)
"""They say each time that something could not be sent."""
_CAUSES = (
    re.compile(r"\[Errno -?\d+\] [^\"')]+|[Rr]ead timed out|code: \d+, reason: .*"),
    re.compile(r"(?<=Failed to connect to remote host: )[^.\"]+"),
    re.compile(r"(?:StatusCode\.)\w+"),
)
"""In what the exporters log: the first that is found says most."""
_MAX_CAUSE = 300
"""[characters]"""
_exporting = threading.local()

logger = logging.getLogger(__name__)


def endpoint() -> str | None:
    """Where this process is to send spans; None if nowhere."""
    if os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return None
    if "otlp" not in os.environ.get("OTEL_TRACES_EXPORTER", "otlp"):
        return None
    return next((found for name in ENDPOINTS if (found := os.environ.get(name, "").strip())), None)


class Traces:
    """What sends the spans of this process.

    Args:
        exporter: Sends a batch.
        where: It sends them to, for people.
    """

    def __init__(self, exporter: SpanExporter, where: str) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        has_name = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        resource = Resource.create({} if has_name else {SERVICE_NAME: SERVICE})
        self._where = where
        self._told = _Told(exporter)
        self._provider: TracerProvider = TracerProvider(
            resource=resource, shutdown_on_exit=False, id_generator=cast("Any", _SystemIds())
        )
        _draw_elsewhere()
        self._provider.add_span_processor(BatchSpanProcessor(cast("Any", self._told)))
        atexit.register(self._finish)

    @property
    def tracer(self) -> Tracer:
        """Makes spans."""
        return self._provider.get_tracer(SERVICE)

    def trouble(self) -> str | None:
        """Why nothing could be sent, the first time that this is asked after it happened; else None."""
        return self._told.take()

    def send(self, wait_s: float = 0.0) -> None:
        """Send what has ended.

        Args:
            wait_s: How long to wait for that [s]; an endpoint that has failed before is not waited for.
        """
        # Its timeout is not used by the SDK.
        sending = threading.Thread(target=self._provider.force_flush, name="raytrainer-traces", daemon=True)
        sending.start()
        if not self._told.has_failed:
            sending.join(wait_s)

    def _finish(self) -> None:
        self.send(EXIT_S)
        trouble = self._told.take() or self._told.trying
        if trouble is not None:
            logger.warning("Not all traces were sent to %s: %s.", redacted_text(self._where), trouble)


class NoTracesError(Exception):
    """An endpoint is set, and nothing can be sent to it; the text says why."""


@functools.cache
def open_traces(where: str) -> Traces:
    """What sends the spans of this process to its endpoint; made once.

    Args:
        where: The endpoint.

    Raises:
        NoTracesError: If that is not possible, each time.
    """
    protocol = next((found for name in _PROTOCOLS if (found := os.environ.get(name))), "http/protobuf")
    if protocol not in _EXPORTERS:
        raise NoTracesError(f"spans cannot be sent over {protocol!r}; use one of {', '.join(_EXPORTERS)}")
    try:
        exporter = _exporter(_EXPORTERS[protocol])
    except ImportError as error:
        extra = (
            "raytrainer[otel]" if protocol == "http/protobuf" else "opentelemetry-exporter-otlp-proto-grpc"
        )
        raise NoTracesError(
            f"no traces are sent to it, because {error.name or 'a package'} is not installed. "
            f"Run: pip install '{extra}'"
        ) from None
    except Exception as error:
        raise NoTracesError(
            f"no traces are sent to it: {type(error).__name__}: {redacted_text(str(error))}"
        ) from error
    return Traces(exporter, where)


def _exporter(module: str) -> SpanExporter:
    import importlib

    return importlib.import_module(module).OTLPSpanExporter()


def parent() -> Any:
    """What a run belongs to: the span that is open in this thread, else that of ``TRACEPARENT``; None."""
    from opentelemetry import context, trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    if trace.get_current_span().get_span_context().is_valid:
        return context.get_current()
    carrier = {
        name: os.environ[name.upper()] for name in ("traceparent", "tracestate") if name.upper() in os.environ
    }
    return TraceContextTextMapPropagator().extract(carrier)


def as_parent(span: Span) -> str:
    """A span as ``TRACEPARENT`` names it to other processes."""
    context = span.get_span_context()
    return f"00-{context.trace_id:032x}-{context.span_id:016x}-{int(context.trace_flags):02x}"


class _SystemIds:
    """Names of spans and traces.

    Those of the SDK are drawn from the generator that a run seeds: all runs of a seed would be one trace, and training
    would draw other numbers.
    """

    def __init__(self) -> None:
        self._random = random.SystemRandom()

    def generate_span_id(self) -> int:
        return self._random.randrange(1, 1 << 64)

    def generate_trace_id(self) -> int:
        return self._random.randrange(1, 1 << 128)

    def is_trace_id_random(self) -> bool:
        return True


def _in_short(message: str) -> str:
    """What went wrong, out of what the exporter logged."""
    found = next((match[0] for cause in _CAUSES if (match := cause.search(message))), message)
    return redacted_text(found)[:_MAX_CAUSE].rstrip(". ")


def _draw_elsewhere() -> None:
    """Let OpenTelemetry's exporters draw how long they wait from a generator of their own, not from that of the run."""
    for name, module in list(sys.modules.items()):
        if name.startswith("opentelemetry.") and getattr(module, "random", None) is random:
            module.random = random.Random()  # pyright: ignore[reportAttributeAccessIssue]


class _Told:
    """An exporter that keeps the first thing that went wrong, instead of logging all.

    Args:
        inner: Sends.
    """

    def __init__(self, inner: SpanExporter) -> None:
        self._inner = inner
        self._trouble: str | None = None
        self._heard: str | None = None
        self.has_failed = False
        for name in _LOGGERS:
            logging.getLogger(name).addFilter(self._hear)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send a batch."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        _exporting.by = self
        self._heard = None
        try:
            result = self._inner.export(spans)
        except Exception as error:  # noqa: BLE001  whatever it is, the run goes on
            self._heard, result = f"{type(error).__name__}: {error}", SpanExportResult.FAILURE
        finally:
            _exporting.by = None
        heard, self._heard = self._heard, None
        if result is not SpanExportResult.SUCCESS:
            self._fail(heard or "it was not accepted")
        return result

    @property
    def trying(self) -> str | None:
        """What went wrong with a batch that is being sent, and is tried again."""
        return None if self._heard is None or self.has_failed else _in_short(self._heard)

    def _fail(self, why: str) -> None:
        if not self.has_failed:
            self.has_failed, self._trouble = True, _in_short(why)

    def take(self) -> str | None:
        trouble, self._trouble = self._trouble, None
        return trouble

    def _hear(self, record: logging.LogRecord) -> bool:
        """A filter: what is logged while this exporter sends is kept, the first of it, and not shown."""
        if getattr(_exporting, "by", None) is not self:
            return True
        self._heard = self._heard or record.getMessage()
        return False

    def shutdown(self) -> None:
        self._inner.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        return self._inner.force_flush(timeout_millis)
