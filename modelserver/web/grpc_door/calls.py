"""What holds for every call: its id, its token, its deadline, its count and its errors.

Over HTTP the hooks of ``web.access``, ``web.problems`` and ``web.request_metrics`` do
the same. A call's work is done in the context of an app, for which ``backend()`` and
what a request notes in ``g`` are there as over HTTP.
"""

from __future__ import annotations

import logging
import math
import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

import grpc
from flask import Flask, g
from werkzeug.exceptions import HTTPException

from modelserver.core import logs
from modelserver.core.errors import InternalError, RequestError, Unauthorized
from modelserver.web.access import (
    check_loopback,
    drop_uploads,
    given_id,
    has_token,
    timing,
)
from modelserver.web.callers import Caller

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from modelserver.web.backend import Backend
    from modelserver.web.grpc_door.methods import Method

log = logging.getLogger(__name__)

DIALECT = "grpc"
"""The word for this door in metrics."""

_CODES = {
    HTTPStatus.OK: grpc.StatusCode.OK,
    HTTPStatus.BAD_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNAUTHORIZED: grpc.StatusCode.UNAUTHENTICATED,
    HTTPStatus.FORBIDDEN: grpc.StatusCode.PERMISSION_DENIED,
    HTTPStatus.NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    HTTPStatus.REQUEST_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.CONFLICT: grpc.StatusCode.FAILED_PRECONDITION,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.UNPROCESSABLE_ENTITY: grpc.StatusCode.INVALID_ARGUMENT,
    HTTPStatus.SERVICE_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT: grpc.StatusCode.DEADLINE_EXCEEDED,
    HTTPStatus.INSUFFICIENT_STORAGE: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_ADDRESS = re.compile(r"ipv[46]:\[?(?P<host>[^\]]*?)\]?:\d+")


class Call:
    """A call as its head tells it.

    Attributes:
        metadata: by name, the last of several.
        host: the client's address, empty if it has none.
        started: in seconds of ``time.perf_counter``.
        request_id: the client's own, or a new one.
        caller: who waits; its time begins when the request is there.
    """

    def __init__(
        self, metadata: Mapping[str, str], peer: str, seconds: float | None
    ) -> None:
        self.metadata = metadata
        found = _ADDRESS.fullmatch(unquote(peer))
        self.host = found["host"] if found else ""
        self.started = time.perf_counter()
        self.request_id = given_id(metadata.get("x-request-id", ""))
        self.caller = Caller(0.0, 0.0)
        self._own_s = seconds

    def begin(self, limit_s: float) -> None:
        """Have the caller's time begin.

        Args:
            limit_s: the server's ``REQUEST_TIMEOUT_S``.
        """
        seconds, until = limit_s, time.perf_counter() + limit_s
        if self._own_s is not None and self.started + self._own_s < until:
            seconds, until = self._own_s, self.started + self._own_s
        self.caller.seconds, self.caller.until = seconds, until


class Answer(NamedTuple):
    """What a call is answered.

    Attributes:
        content: the message, empty with an error.
        code: gRPC's.
        details: the error's sentence.
        trailing: metadata.
    """

    content: bytes
    code: grpc.StatusCode
    details: str
    trailing: tuple[tuple[str, str], ...]


class _Refusal(NamedTuple):
    """An error as it is answered."""

    status: int
    details: str
    retry_after_s: float | None = None


class Calls:
    """Answers calls. Thread-safe.

    Args:
        backend: started.
    """

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._token = backend.settings.api_token.encode()
        self._app = Flask(__name__)
        self._app.extensions["modelserver"] = backend

    def check(self, call: Call, *, is_open: bool = False, is_own: bool = False) -> None:
        """Check who calls, before anything else of the call is read.

        Args:
            is_open: no token is needed.
            is_own: without a token only this machine may.

        Raises:
            Unauthorized: the token is missing or another one.
            LoopbackOnly: the client is on another machine.
        """
        given = call.metadata
        if self._token:
            key, bearer = given.get("x-api-key", ""), given.get("authorization", "")
            if not is_open and not has_token(self._token, key, bearer):
                raise Unauthorized
        elif is_own or not self._backend.settings.allow_anonymous:
            check_loopback(call.host, given.get("x-forwarded-for", ""))

    def answer(self, call: Call, method: Method, work: Callable[[], bytes]) -> Answer:
        """Do a call's work, and return its answer; never raises.

        Args:
            work: returns the answer's message, or raises; it may take long.
        """
        content, refusal = b"", _Refusal(HTTPStatus.OK, "")
        with self._app.app_context():
            g.started, g.request_id, g.caller = (
                call.started,
                call.request_id,
                call.caller,
            )
            logs.bind(request_id=call.request_id)
            traces, span = self._backend.traces, None
            if traces is not None and not method.is_open:
                span = traces.begin("POST", method.route, call.metadata)
            try:
                content = work()
            except Exception as error:  # noqa: BLE001 - each one is answered
                refusal = self._refuse(error)
            model = logs.get_fact("model")
            self._backend.link.count(method.route, model, refusal.status, DIALECT)
            if traces is not None and span is not None:
                for seen in g.get("seen", ()):
                    traces.add_evaluation(seen)
                traces.end(span, call.request_id, refusal.status)
            trailing = _trailing(refusal.retry_after_s)
            drop_uploads(None)
            logs.unbind()
        return Answer(content, code_of(refusal.status), refusal.details, trailing)

    def _refuse(self, error: Exception) -> _Refusal:
        """Return how an error is answered, and count and log it."""
        if isinstance(error, HTTPException):
            status = error.code or HTTPStatus.INTERNAL_SERVER_ERROR
            return _Refusal(status, error.description or error.name)
        if not isinstance(error, RequestError):
            log.error("request %s failed", g.request_id, exc_info=error)
            error = InternalError(g.request_id)
        elif error.status == HTTPStatus.INTERNAL_SERVER_ERROR:
            log.warning("%s", error)
        self._backend.link.count_refusal(error.slug)
        return _Refusal(error.status, str(error), error.retry_after_s)


def code_of(status: int) -> grpc.StatusCode:
    """Return gRPC's code for an HTTP status."""
    return _CODES.get(HTTPStatus(status), grpc.StatusCode.INTERNAL)


def _trailing(retry_after_s: float | None) -> tuple[tuple[str, str], ...]:
    """Return the metadata that every answer has."""
    found = (("x-request-id", g.request_id), ("server-timing", timing()))
    if retry_after_s is None:
        return found
    return (
        *found,
        ("retry-after", str(math.ceil(retry_after_s))),
        # What gRPC's own retries go by.
        ("grpc-retry-pushback-ms", str(math.ceil(retry_after_s * 1000))),
    )
