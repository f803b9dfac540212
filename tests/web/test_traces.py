"""Traces: a span for each request and each stage, if variables ask for them."""

import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from modelserver.web import traces
from support import tiny_graphs
from support.app_client import photo, post

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
OTLP = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, ""),
        ({OTLP: "http://127.0.0.1:4318"}, "otlp"),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1/v1"}, "otlp"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "console"),
        ({"OTEL_TRACES_EXPORTER": "none", OTLP: "http://127.0.0.1"}, ""),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "True"}, ""),
    ],
)
def test_the_variables_say_where_traces_go(environ, name):
    """Variables choose the exporter, as OpenTelemetry specifies."""
    assert traces.exporter_name(environ) == name


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "'jaeger'"),
        ({OTLP: "http://x", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, "'grpc'"),
    ],
)
def test_what_cannot_be_done_is_said_and_served_without(environ, expected, caplog):
    """A bad variable is one line in the log, and no stop."""
    assert traces.start(environ) is None
    (line,) = caplog.messages
    assert expected in line


def test_without_the_packages_one_line_says_what_to_install(monkeypatch, caplog):
    """Missing packages are one line, and the server serves."""
    for name in list(sys.modules):
        if name.partition(".")[0] == "opentelemetry":
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert traces.start({"OTEL_TRACES_EXPORTER": "otlp"}) is None
    (line,) = caplog.messages
    assert "requirements-otel.txt" in line


@pytest.mark.process
def test_without_the_variables_nothing_is_imported():
    """Without variables OpenTelemetry is not imported."""
    code = (
        "import sys; from modelserver.web import factory, traces; "
        "assert traces.start({}) is None; "
        "print([m for m in sys.modules if m.startswith('opentelemetry')])"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert out.stdout.strip() == "[]"


def test_stages_follow_each_other():
    """Stages follow each other in nanoseconds."""
    seen = SimpleNamespace(wait=0, decode=1, queue=2, run=3, post=0.5)
    got = list(traces.stages(seen, 3_500_000))
    assert got == [
        ("wait", 3_500_000, 3_500_000),
        ("decode", 3_500_000, 4_500_000),
        ("queue", 4_500_000, 6_500_000),
        ("run", 6_500_000, 9_500_000),
        ("post", 9_500_000, 10_000_000),
    ]


@pytest.fixture
def exporter():
    """Return an exporter that keeps spans."""
    export = pytest.importorskip(
        "opentelemetry.sdk.trace.export.in_memory_span_exporter"
    )
    return export.InMemorySpanExporter()


@pytest.fixture
def client(exporter, folder, serving):
    """Return a client of an app that makes traces, with one echoing model, ``m``."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor

    tiny_graphs.write(folder / "m.frozen.pb", tiny_graphs.echo_detector())
    client = serving()
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    backend = client.application.extensions["modelserver"]
    backend.traces = traces.Traces(provider)
    return client


def test_a_request_is_a_span_with_its_stages_inside(client, exporter):
    """A span joins the caller's trace, with model, batch and id."""
    sent = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine-1"}
    assert post(client, "/detect", "m", photo(), headers=sent).status_code == 200
    *parts, whole = exporter.get_finished_spans()
    assert whole.name == "POST /detect"
    assert f"{whole.context.trace_id:032x}" == TRACE
    assert f"{whole.parent.span_id:016x}" == PARENT
    assert dict(whole.attributes) == {
        "http.request.method": "POST",
        "http.route": "/detect",
        "http.response.status_code": 200,
        "modelserver.model": "m",
        "modelserver.batch_size": 1,
        "modelserver.request_id": "mine-1",
    }
    assert [part.name for part in parts] == ["wait", "decode", "queue", "run", "post"]
    for part in parts:
        assert part.parent.span_id == whole.context.span_id
        assert part.attributes["modelserver.model"] == "m"
        assert part.end_time >= part.start_time >= whole.start_time - 1_000_000
    assert whole.end_time >= parts[-1].end_time


def test_requests_without_a_trace_begin_one_each(client, exporter):
    """Requests of one thread are not inside each other."""
    for name in ("m", "x", "m"):
        post(client, "/detect", name, photo())
    wholes = [s for s in exporter.get_finished_spans() if s.name == "POST /detect"]
    assert [s.attributes["http.response.status_code"] for s in wholes] == [
        200,
        404,
        200,
    ]
    assert [s.parent for s in wholes] == [None] * 3
    assert len({s.context.trace_id for s in wholes}) == 3


def test_a_request_leaves_no_span_behind_in_its_thread(client):
    """The next request's context is not stacked on the last."""
    from opentelemetry import trace

    post(client, "/detect", "m", photo())
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_the_servers_own_errors_are_marked(client, exporter, monkeypatch):
    """Server errors mark the span, client errors do not."""
    backend = client.application.extensions["modelserver"]
    post(client, "/detect", "x", photo())
    monkeypatch.setattr(backend.engine.service, "evaluate", None)
    assert post(client, "/detect", "m", photo()).status_code == 500
    first, second = exporter.get_finished_spans()
    assert (first.status.is_unset, second.status.is_ok) == (True, False)
    assert second.status.status_code.name == "ERROR"


def test_probes_are_not_traced(client, exporter):
    """Probes have no span."""
    for path in ("/livez", "/readyz", "/metrics"):
        client.get(path)
    assert exporter.get_finished_spans() == ()


def test_what_is_left_is_exported_at_the_end(exporter):
    """All spans are exported before ``close`` returns."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    opened = traces.Traces(provider).open()
    opened.end(opened.begin("GET", "/models", {}), "r", 200)
    opened.close()
    (span,) = exporter.get_finished_spans()
    assert span.name == "GET /models"


def test_a_collector_that_hangs_does_not_hold_up_the_end(exporter, monkeypatch):
    """A collector that hangs delays the end a while only."""
    hangs = threading.Event()
    monkeypatch.setattr(traces, "_LAST_S", 0.01)
    opened = traces.Traces(SimpleNamespace(get_tracer=str, shutdown=hangs.wait)).open()
    opened.close()
    assert opened._ender.is_alive()
    hangs.set()
    opened._ender.join()


@pytest.mark.parametrize("name", ["otlp", "console"])
def test_an_app_starts_and_ends_its_exporter(name, monkeypatch, folder, serving):
    """A missing collector does not stop the server."""
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", name)
    monkeypatch.setenv(OTLP, "http://127.0.0.1:9")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "seals")
    client = serving()
    backend = client.application.extensions["modelserver"]
    resource = backend.traces._provider.resource.attributes
    assert resource["service.name"] == "seals"
    assert client.get("/livez").status_code == 200
    backend.close()
    backend.close()


def test_a_service_has_a_name_without_being_given_one(monkeypatch):
    """The service's name has a default."""
    pytest.importorskip("opentelemetry.sdk.trace")
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    started = traces.start({"OTEL_TRACES_EXPORTER": "console"})
    try:
        attributes = started._provider.resource.attributes
        assert attributes["service.name"] == "modelserver"
    finally:
        started.close()
