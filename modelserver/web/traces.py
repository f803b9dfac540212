"""Traces by OpenTelemetry, if its environment variables ask for them.

Its packages are not needed otherwise (``requirements-otel.txt`` has them): they are
imported only if a variable is set, when the serving process starts. The variables are
OpenTelemetry's own; sampling, the exporter's address and its headers, and the
resource's attributes are read by its SDK.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from contextvars import Token

    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter
    from opentelemetry.trace import Span
    from typing_extensions import Self
    from werkzeug.datastructures import Headers

    from modelserver.core.messages.requests import Seen

from modelserver.core.extras import install_command
from modelserver.core.metrics import STAGES

log = logging.getLogger(__name__)

_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_HTTP = "http/protobuf"
_HEADERS = ("traceparent", "tracestate")
_SERVER_ERROR = 500
_LAST_S = 2.0  # for the last exports at the end
_NS = 1_000_000_000  # in a second


def exporter_name(environ: Mapping[str, str]) -> str:
    """Return the exporter that the variables ask for; empty for none.

    Raises:
        ValueError: there is no such exporter.
    """
    if environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return ""
    name = environ.get("OTEL_TRACES_EXPORTER", "").strip()
    if not name:
        name = "otlp" if any(environ.get(key) for key in _ENDPOINTS) else "none"
    if name not in {"otlp", "console", "none"}:
        raise ValueError(
            f"OTEL_TRACES_EXPORTER={name!r} is none of otlp, console, none"
        )
    protocol = next((environ[key] for key in _PROTOCOLS if environ.get(key)), _HTTP)
    if name == "otlp" and protocol != _HTTP:
        raise ValueError(f"traces are exported by {_HTTP}, not by {protocol!r}")
    return "" if name == "none" else name


def start(environ: Mapping[str, str]) -> Traces | None:
    """Start the export of traces, two threads; ``None`` if none are wanted.

    Call it in the process that serves. If there can be none, the log says why: the
    variables often are a whole cluster's, and no reason not to serve.
    """
    try:
        name = exporter_name(environ)
        return Traces(_provider(_exporter(name))).open() if name else None
    except ImportError as error:
        log.warning(
            "OpenTelemetry's variables are set, but there are no traces: %s; "
            "%s brings its packages.",
            error,
            install_command("otel"),
        )
    except ValueError as error:
        log.warning(
            "OpenTelemetry's variables are set, but there are no traces: %s.", error
        )
    return None


# OpenTelemetry takes a third of a second to import, and may not be there at all.


def _exporter(name: str) -> SpanExporter:
    if name == "console":
        from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 - see above
            ConsoleSpanExporter,
        )

        return ConsoleSpanExporter()
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - see above
        OTLPSpanExporter,
    )

    return OTLPSpanExporter()


def _provider(exporter: SpanExporter) -> TracerProvider:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - see above
    from opentelemetry.sdk.trace.export import (  # noqa: PLC0415 - see above
        BatchSpanProcessor,
    )

    resource = Resource.create()  # of the variables
    if str(resource.attributes["service.name"]).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "modelserver"}))
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


class OpenSpan(NamedTuple):
    """A request's span, and the token that ends its being the current one."""

    span: Span
    token: Token[Context]


class Traces:
    """Makes a span for each request and one for each stage within. Thread-safe.

    Args:
        provider: of the SDK; ended by :meth:`close` if :meth:`open` was called.
    """

    def __init__(self, provider: TracerProvider) -> None:
        from opentelemetry import context, trace  # noqa: PLC0415 - see above
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - see above
            TraceContextTextMapPropagator,
        )

        self._context, self._trace = context, trace
        self._propagator = TraceContextTextMapPropagator()
        self._provider = provider
        self._tracer = provider.get_tracer("modelserver")
        self._ending = threading.Event()
        self._ender = threading.Thread(
            target=self._shut_down, name="end-traces", daemon=True
        )

    def open(self) -> Self:
        """Start the thread that ends the provider when this is closed."""
        self._ender.start()
        return self

    def begin(
        self, method: str, route: str, headers: Headers | Mapping[str, str]
    ) -> OpenSpan:
        """Begin a request's span, within the caller's trace if it names one."""
        parents = {name: headers[name] for name in _HEADERS if name in headers}
        span = self._tracer.start_span(
            f"{method} {route}",
            self._propagator.extract(parents),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
        )
        token = self._context.attach(self._trace.set_span_in_context(span))
        return OpenSpan(span, token)

    def add_evaluation(self, seen: Seen) -> None:
        """Add the stages of an evaluation that has just ended to the current span."""
        span = self._trace.get_current_span()
        if not span.is_recording():
            return
        facts: dict[str, str | int] = {
            "modelserver.model": seen.model,
            "modelserver.batch_size": seen.batch,
        }
        span.set_attributes(facts)
        ago_ns = round((time.perf_counter() - seen.started) * _NS)
        began_ns = time.time_ns() - ago_ns
        for name, begin_ns, end_ns in stages(seen, began_ns):
            stage = self._tracer.start_span(name, attributes=facts, start_time=begin_ns)
            stage.end(end_ns)

    def end(self, open_span: OpenSpan, request_id: str, status: int) -> None:
        """End a request's span."""
        span, code = open_span.span, self._trace.StatusCode
        self._context.detach(open_span.token)
        span.set_attributes(
            {
                "modelserver.request_id": request_id,
                "http.response.status_code": status,
            }
        )
        if status >= _SERVER_ERROR:
            span.set_status(code.ERROR)
        span.end()

    def close(self) -> None:
        """Export the remaining spans, within a short time. Idempotent.

        A collector that is away must not hold up the server's end, and at an
        interpreter's exit no thread can be started: so one waits already.
        """
        self._ending.set()
        if self._ender.is_alive():
            self._ender.join(_LAST_S)

    def _shut_down(self) -> None:
        self._ending.wait()
        self._provider.shutdown()


def stages(seen: Seen, at_ns: int) -> Iterator[tuple[str, int, int]]:
    """Yield the name, begin and end of an evaluation's stages, from ``at_ns`` on."""
    for name in STAGES:
        end_ns = at_ns + round(getattr(seen, name) / 1000 * _NS)
        yield name, at_ns, end_ns
        at_ns = end_ns
