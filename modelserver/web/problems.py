"""Turning errors into answers, ``application/problem+json``, in one place."""

from __future__ import annotations

import logging
import math
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from flask import Response, g, request
from werkzeug.exceptions import (
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)

from modelserver.core.contract import Meaning
from modelserver.core.errors import (
    InternalError,
    RequestError,
    Unauthorized,
    UploadTooLarge,
)
from modelserver.tasks import TASKS
from modelserver.web.backend import backend
from modelserver.web.problem_json import PROBLEM, problem_body

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

log = logging.getLogger(__name__)


def install(app: Flask) -> None:
    """Register the handlers for every error that can leave a view."""
    app.register_error_handler(RequestError, request_error)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, unknown_error)
    app.add_url_rule("/problems/<slug>", view_func=explain)


def problem(status: int, title: str, detail: str, slug: str | None = None) -> Response:
    """Return a problem as a response; see ``problem_body``."""
    body = problem_body(status, title, detail, slug)
    return Response(body, status, content_type=PROBLEM)


def request_error(error: RequestError) -> Response:
    """Answer an error of ours."""
    response = problem(error.status, error.title, str(error), error.slug)
    backend().metrics.refused(error.slug)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="modelserver"'
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s", error)
    return response


def http_error(error: HTTPException) -> Response:
    """Answer an error of the framework's, in our form."""
    if isinstance(error, RequestEntityTooLarge):
        limit_mb = backend().settings.max_upload_mb
        return request_error(
            UploadTooLarge(
                f"The request's body may have {limit_mb} MiB (MAX_UPLOAD_MB)."
            )
        )
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    detail = (error.description or error.name).split("\n")[0]
    if isinstance(error, NotFound):
        detail = _elsewhere(request.path) or detail
    response = problem(status, error.name, detail)
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        response.headers["Allow"] = ", ".join(sorted(error.valid_methods))
    return response


def _elsewhere(path: str) -> str | None:
    """Return who answers a path that is none here; ``None`` where nobody does."""
    routes = {task.endpoint.route: task for task in TASKS.values() if task.app}
    task = routes.get(path.rstrip("/"))
    if task is None:
        return None
    app, port = task.app.removesuffix(".py"), task.endpoint.port
    return (
        f"{path} is answered by {app}, the other app here, which listens on port "
        f"{port} unless PORT says otherwise. GET /models lists what this one has."
    )


def unknown_error(error: Exception) -> Response:
    """Answer a bug of ours: the log has it all, the client a number to ask about."""
    number = g.get("request_id")
    log.error("request %s failed", number, exc_info=error)
    return request_error(InternalError(number))


def explain(slug: str) -> Response:
    """``GET /problems/<slug>``: what a problem's type means."""
    for kind in kinds():
        if kind.slug == slug:
            meaning = (kind.__doc__ or kind.title).split("\n")[0]
            body = Meaning(kind.title, int(kind.status), meaning)
            return Response(msgspec.json.encode(body), content_type="application/json")
    raise NotFound


def kinds(base: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    """All classes of request errors."""
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)
