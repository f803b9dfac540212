"""Metrics and traces: each answer is counted and traced; ``GET /metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, g, request

from modelserver.core import logs
from modelserver.core.messages.questions import Rendered
from modelserver.web.dialects.dialect import current

if TYPE_CHECKING:
    from flask import Flask

    from modelserver.web.backend import Backend
    from modelserver.web.traces import OpenSpan

# Requests that machines make every few seconds, and the parts of a page, have no span.
_UNTRACED = frozenset(
    {"api.livez", "api.readyz", "metrics.show", "page.script", "static"}
)


def install(app: Flask, backend: Backend) -> None:
    """Count and trace every request; to be called before any other hook is added.

    So the count comes after all that others do to a response, and the span begins
    before anything is refused.
    """

    def begin() -> None:
        """Begin the request's span, if traces are wanted."""
        if backend.traces is not None and request.endpoint not in _UNTRACED:
            g.span = backend.traces.begin(request.method, route(), request.headers)

    def count(response: Response) -> Response:
        """Count the request, which gets this response.

        Routes are counted as they are defined and models only if there are such, so
        text from clients makes no series.
        """
        g.status = response.status_code
        dialect = current()
        name = dialect.name if dialect is not None else ""
        backend.link.count(route(), logs.get_fact("model"), g.status, name)
        return response

    def end(_error: BaseException | None) -> None:
        """End the request's span, and the facts that its log lines share."""
        open_span: OpenSpan | None = g.pop("span", None)
        if backend.traces is not None and open_span is not None:
            for seen in g.get("seen", ()):
                backend.traces.add_evaluation(seen)
            backend.traces.end(open_span, g.get("request_id", ""), g.get("status", 0))
        logs.unbind()

    def show() -> Response:
        """``GET /metrics``: all metrics, as Prometheus or OpenMetrics text."""
        accept = request.headers.get("Accept", "")
        rendered = backend.ask("metrics", Rendered, accept=accept)
        return Response(rendered.body, content_type=rendered.content_type)

    app.before_request(begin)
    app.after_request(count)
    app.teardown_request(end)
    routes = Blueprint("metrics", __name__)
    routes.add_url_rule("/metrics", "show", show)
    app.register_blueprint(routes)


def route() -> str:
    """Return the present request's route as it is defined; empty if it has none."""
    rule = request.url_rule
    return rule.rule if rule is not None else ""
