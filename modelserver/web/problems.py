"""Problems (RFC 9457): errors as answers, of the app and of gunicorn's worker.

To the standard's members ``error`` is added, with the detail's text: many clients of
other model servers read that.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
import secrets
from functools import cache
from http import HTTPStatus
from typing import TYPE_CHECKING

import msgspec
from flask import Response, current_app, g, request
from werkzeug.exceptions import (
    HTTPException,
    MethodNotAllowed,
    NotFound,
    RequestEntityTooLarge,
)

from modelserver.core.contract import Meaning, Problem
from modelserver.core.errors import (
    InternalError,
    RequestError,
    Unauthorized,
    UploadTooLarge,
)
from modelserver.tasks import TASKS
from modelserver.web.dialects.dialect import current
from modelserver.web.html_answers import opens_page, page, wants_page
from modelserver.web.remedies import REMEDIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask

    from modelserver.web.backend import Backend
    from modelserver.web.dialects.dialect import Dialect

log = logging.getLogger(__name__)

PROBLEM = "application/problem+json"
_JSON = "application/json"
# Random once and then counted: reading randomness for each request would be one more
# wait for the interpreter's lock.
_RANDOM = secrets.token_hex(8)
_COUNT = itertools.count()


def install(app: Flask, backend: Backend) -> None:
    """Register the handlers for every error that can leave a view."""

    def refuse(error: RequestError) -> Response:
        backend.link.count_refusal(error.slug)
        return request_error(error)

    def http_error(error: HTTPException) -> Response:
        """Answer an error of the framework's, in our form."""
        if isinstance(error, RequestEntityTooLarge):
            limit_mb = backend.settings.max_upload_mb
            return refuse(
                UploadTooLarge(
                    f"The request's body may have {limit_mb} MiB (MAX_UPLOAD_MB)."
                )
            )
        return framework_error(error)

    def unknown_error(error: Exception) -> Response:
        """Answer a bug of ours: the log has it all, the client a number to quote."""
        number = g.get("request_id")
        log.error("request %s failed", number, exc_info=error)
        return refuse(InternalError(number))

    app.register_error_handler(RequestError, refuse)
    app.register_error_handler(HTTPException, http_error)
    app.register_error_handler(Exception, unknown_error)
    app.add_url_rule("/problems/<slug>", view_func=explain)


def request_id() -> str:
    """Return an id that no other request has, of 32 hex digits; thread-safe.

    The process's own id is in it: a worker that takes the place of another begins with
    the same random part.
    """
    return f"{_RANDOM}{os.getpid():08x}{next(_COUNT):08x}"


def problem_of(error: RequestError) -> Problem:
    """Return an error of ours as a problem."""
    return _problem(error.status, error.title, str(error), error.slug)


def _problem(status: int, title: str, detail: str, slug: str | None) -> Problem:
    kind = f"/problems/{slug}" if slug else "about:blank"
    return Problem(
        type=kind, title=title, status=int(status), detail=detail, error=detail
    )


def status_of(error: RequestError, dialect: Dialect | None) -> int:
    """Return the status by which an error of ours is answered in a dialect."""
    return error.status if dialect is None else dialect.refuse(problem_of(error))[0]


def plain_problem(
    error: RequestError, headers: str = "", dialect: Dialect | None = None
) -> bytes:
    """Return an error of ours as a whole HTTP answer; see ``plain_answer``.

    Args:
        dialect: of the request.
    """
    if error.retry_after_s is not None:
        headers += f"Retry-After: {math.ceil(error.retry_after_s)}\r\n"
    return _told(problem_of(error), headers, dialect)


def plain_answer(
    status: HTTPStatus,
    detail: str,
    headers: str = "",
    dialect: Dialect | None = None,
) -> bytes:
    """Return a problem as a whole HTTP answer, if no app makes one.

    Close the connection after it: the request was not read to its end.

    Args:
        headers: more of them, a line each.
        dialect: of the request, which words it.
    """
    return _told(_problem(status, status.phrase, detail, None), headers, dialect)


def _told(told: Problem, headers: str, dialect: Dialect | None) -> bytes:
    if dialect is None:
        return _answer(HTTPStatus(told.status), msgspec.json.encode(told), headers)
    status, body = dialect.refuse(told)
    return _answer(HTTPStatus(status), msgspec.json.encode(body), headers, _JSON)


def _answer(
    status: HTTPStatus, content: bytes, headers: str, kind: str = PROBLEM
) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Connection: close\r\n"
        f"Content-Type: {kind}\r\n"
        f"Content-Length: {len(content)}\r\n"
        f"{headers}"
        "Server-Timing: total;dur=0\r\n"
        # As web.access adds them to the answers of an app.
        "X-Content-Type-Options: nosniff\r\n"
        "Referrer-Policy: same-origin\r\n"
        "Cross-Origin-Resource-Policy: same-origin\r\n"
        "Cache-Control: no-store\r\n"
        f"X-Request-Id: {request_id()}\r\n\r\n"
    )
    return head.encode() + content


def problem(status: int, title: str, detail: str, slug: str | None = None) -> Response:
    """Return a problem as a response, in the form of the request's dialect.

    Who opens an address in a browser gets a page.
    """
    told = _problem(status, title, detail, slug)
    dialect = current()
    if dialect is None and opens_page():
        response = page("error.html", told=told)
        response.status_code = status
        return response
    if dialect is None:
        return Response(msgspec.json.encode(told), status, content_type=PROBLEM)
    status, body = dialect.refuse(told)
    return Response(msgspec.json.encode(body), status, content_type=_JSON)


def request_error(error: RequestError) -> Response:
    """Answer an error of ours."""
    response = problem(error.status, error.title, str(error), error.slug)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    if isinstance(error, Unauthorized):
        response.headers["WWW-Authenticate"] = 'Bearer realm="modelserver"'
    if error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
        log.warning("%s", error)
    return response


def framework_error(error: HTTPException) -> Response:
    """Answer an error of the framework's, in our form."""
    status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
    detail = (error.description or error.name).split("\n")[0]
    if isinstance(error, NotFound):
        detail = _elsewhere() or detail
    allowed = ""
    if isinstance(error, MethodNotAllowed) and error.valid_methods:
        allowed = ", ".join(sorted(error.valid_methods))
        detail = f"{request.method} is not allowed here: use {allowed}."
    response = problem(status, error.name, detail)
    if allowed:
        response.headers["Allow"] = allowed
    return response


def _elsewhere() -> str | None:
    """Return where what is asked for is, if its address is only written otherwise.

    ``None`` if neither this app nor the other one has it.
    """
    path = request.environ.get("PATH_INFO", "")
    plain = "/" + "/".join(part for part in path.split("/") if part)
    here = current_app.create_url_adapter(request)
    for address in dict.fromkeys((plain, plain.lower())):
        if here is not None and address != path and here.allowed_methods(address):
            return (
                f"The address is {address}: in small letters, with one slash before "
                "each word and none at the end."
            )
    routes = {task.endpoint.route: task for task in TASKS.values() if task.app}
    task = routes.get(plain.lower())
    if task is None:
        return None
    app, port = task.app.removesuffix(".py"), task.endpoint.port
    return (
        f"{task.endpoint.route} is answered by {app}, the other app here, which "
        f"listens on port {port} unless PORT says otherwise. GET /models lists what "
        "this one has."
    )


def explain(slug: str) -> Response:
    """``GET /problems/<slug>``: the meaning of a problem's type."""
    meanings = _meanings()
    if slug not in meanings:
        raise NotFound
    if wants_page():
        meaning = msgspec.json.decode(meanings[slug], type=Meaning)
        return page("problem.html", meaning=meaning, remedy=REMEDIES[slug], slug=slug)
    return Response(meanings[slug], content_type=_JSON)


@cache
def _meanings() -> dict[str, bytes]:
    """Return the meaning of each problem's type as JSON, by its slug."""
    meanings: dict[str, bytes] = {}
    for kind in kinds():
        meaning = (kind.__doc__ or kind.title).split("\n")[0]
        body = Meaning(kind.title, int(kind.status), meaning)
        # The first of a slug, which a subclass may share.
        meanings.setdefault(kind.slug, msgspec.json.encode(body))
    return meanings


def kinds(base: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    """Yield all classes of request errors."""
    for kind in base.__subclasses__():
        yield kind
        yield from kinds(kind)
