"""An OTLP endpoint on the loopback that keeps the spans it gets, as a collector decodes them."""

from __future__ import annotations

import concurrent.futures
import contextlib
import http.server
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass
class Received:
    """A span."""

    name: str
    trace: str
    id: str
    parent: str
    began: float
    ended: float
    facts: dict[str, Any]
    error: str | None
    events: list[str]
    resource: dict[str, Any]


@dataclass
class Receiver:
    """What came.

    Attributes:
        status: Of the answer to each request.
        hold: No request is answered while it is set.
    """

    url: str = ""
    status: int = 200
    hold: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)
    spans: list[Received] = field(default_factory=list[Received])
    bodies: list[bytes] = field(default_factory=list[bytes])
    paths: list[str] = field(default_factory=list[str])

    def release(self) -> None:
        """Answer what waits."""
        self.hold.clear()
        self.go_on.set()

    def named(self, name: str) -> list[Received]:
        """The spans of a name, by when they began."""
        return sorted((span for span in self.spans if span.name == name), key=lambda span: span.began)

    def one(self, name: str) -> Received:
        """The only span of a name."""
        (found,) = self.named(name)
        return found

    def below(self, span: Received) -> list[str]:
        """The names of a span's children, by when they began."""
        children = sorted((one for one in self.spans if one.parent == span.id), key=lambda one: one.began)
        return [child.name for child in children]

    def tree(self) -> str:
        """All spans as text, for looking at."""
        ids = {span.id for span in self.spans}
        lines: list[str] = []

        def add(span: Received, depth: int) -> None:
            error = f"  ERROR {span.error}" if span.error is not None else ""
            facts = {name.removeprefix("raytrainer."): value for name, value in span.facts.items()}
            lines.append(
                f"{'  ' * depth}{span.name} {span.ended - span.began:.3f} s {facts}{error} {span.events or ''}"
            )
            for child in sorted(self.spans, key=lambda one: one.began):
                if child.parent == span.id:
                    add(child, depth + 1)

        for span in self.spans:
            if span.parent not in ids:
                add(span, 0)
        return "\n".join(lines)


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))


def _spans(body: bytes) -> list[Received]:
    request = ExportTraceServiceRequest.FromString(body)
    return [
        Received(
            name=span.name,
            trace=span.trace_id.hex(),
            id=span.span_id.hex(),
            parent=span.parent_span_id.hex(),
            began=span.start_time_unix_nano / 1e9,
            ended=span.end_time_unix_nano / 1e9,
            facts={one.key: _value(one.value) for one in span.attributes},
            error=span.status.message if span.status.code == 2 else None,
            events=[event.name for event in span.events],
            resource={one.key: _value(one.value) for one in of_resource.resource.attributes},
        )
        for of_resource in request.resource_spans
        for of_scope in of_resource.scope_spans
        for span in of_scope.spans
    ]


@contextlib.contextmanager
def receiver() -> Generator[Receiver]:
    """An endpoint while the block lasts."""
    found = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if found.hold.is_set():
                found.go_on.wait()
            if found.status == 200:
                found.bodies.append(body)
                found.spans.extend(_spans(body))
            found.paths.append(self.path)
            self.send_response(found.status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    found.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def grpc_receiver() -> Generator[Receiver]:
    """An endpoint that speaks gRPC while the block lasts; one whose ``status`` is not 200 is unavailable."""
    import grpc
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

    found = Receiver()

    class Service(services.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:
            found.paths.append("grpc")
            if found.status != 200:
                context.abort(grpc.StatusCode.UNAVAILABLE, "by a test")
            body = request.SerializeToString()
            found.bodies.append(body)
            found.spans.extend(_spans(body))
            return messages.ExportTraceServiceResponse()

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(2))
    services.add_TraceServiceServicer_to_server(Service(), server)
    found.url = f"http://127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    try:
        yield found
    finally:
        server.stop(grace=None).wait()
