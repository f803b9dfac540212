"""The server's numbers: each answer is counted and traced; ``GET /metrics``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Blueprint, Response, g, request

from modelserver.core import logs
from modelserver.web.backend import backend

if TYPE_CHECKING:
    from flask import Flask

    from modelserver.web.traces import Begun

# What machines ask every few seconds, and what makes up a page, has no span.
_UNTRACED = frozenset({"api.livez", "api.readyz", "numbers.show", "static"})


def install(app: Flask) -> None:
    """Count and trace every request; to be called before any other hook is added.

    So the count comes after all that others do to a response, and the span is begun
    before anything is refused.
    """
    app.before_request(begin)
    app.after_request(count)
    app.teardown_request(end)


def blueprint() -> Blueprint:
    """Return the route that both apps have."""
    routes = Blueprint("numbers", __name__)
    routes.add_url_rule("/metrics", view_func=show)
    return routes


def show() -> Response:
    """``GET /metrics``: all numbers, as Prometheus or OpenMetrics text."""
    body, kind = backend().metrics.render(request.headers.get("Accept", ""))
    return Response(body, content_type=kind)


def begin() -> None:
    """Begin the present request's span, where somebody asked for traces."""
    traces = backend().traces
    if traces is not None and request.endpoint not in _UNTRACED:
        g.begun = traces.begin(request.method, route(), request.headers)


def count(response: Response) -> Response:
    """Count the present request, which gets this response.

    Routes are counted as they are defined and models only where there are such, so
    what clients write makes no series.
    """
    g.status = response.status_code
    backend().metrics.answered(route(), logs.bound("model"), g.status)
    return response


def end(_error: BaseException | None) -> None:
    """End the present request's span, and what its log lines have in common."""
    begun: Begun | None = g.pop("begun", None)
    traces = backend().traces
    if traces is not None and begun is not None:
        traces.end(begun, g.get("request_id", ""), g.get("status", 0))
    logs.unbind()


def route() -> str:
    """Return the present request's route as it is defined; empty where it has none."""
    rule = request.url_rule
    return rule.rule if rule is not None else ""
