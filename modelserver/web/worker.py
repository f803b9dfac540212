"""gunicorn's threaded worker, less what a busy connection costs, and plainer errors."""

from __future__ import annotations

import http
import select
import time
import uuid
from typing import Any

from gunicorn import util
from gunicorn.http import errors
from gunicorn.workers.gthread import ThreadWorker

from modelserver.web.bodies import PROBLEM, problem_body

# How long a thread stays with a connection whose next request may be on its way: a
# client that waits for each answer sends the next request within this time.
_STAY_MS = 2
# So that a busy connection does not keep a thread from others for ever.
_STAY_REQUESTS = 64
# The arbiter looks at a worker's sign of life each second.
_NOTIFY_S = 0.5
_STATUSES = {
    errors.LimitRequestLine: http.HTTPStatus.REQUEST_URI_TOO_LONG,
    errors.LimitRequestHeaders: http.HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE,
    errors.ExpectationFailed: http.HTTPStatus.EXPECTATION_FAILED,
    errors.UnsupportedTransferCoding: http.HTTPStatus.NOT_IMPLEMENTED,
}


class Worker(ThreadWorker):  # type: ignore[misc] # gunicorn has no types
    """Stays with a busy connection, and answers what it refuses as a problem.

    The base class hands a kept connection back to its one main loop after each answer,
    which then hands it to a thread again: two thread changes a request.
    """

    _notified = 0.0

    def notify(self) -> None:
        """Give a sign of life, but not at each of a thousand events a second."""
        now = time.monotonic()
        if now - self._notified > _NOTIFY_S:
            self._notified = now
            super().notify()

    def handle_quit(self, sig: int, frame: Any) -> None:
        """End soon, without the base class's look into the thread pool.

        That takes the pool's lock, which the very thread that the signal interrupts
        may hold: it would wait for itself for ever. At its exit the interpreter shuts
        the pool anyway.
        """
        super(ThreadWorker, self).handle_quit(sig, frame)

    def handle(self, conn: Any) -> Any:
        """Handle a connection's request, and those that follow at once."""
        result = super().handle(conn)
        for _ in range(_STAY_REQUESTS):
            # More connections than threads: somebody else waits for this one.
            if not self.alive or self.nr_conns > self.cfg.threads:
                break
            if result is not True or not _next_is_here(conn):
                break
            result = super().handle(conn)
        return result

    def handle_error(self, req: Any, client: Any, addr: Any, exc: Any) -> None:
        """Answer a request that gunicorn itself refuses, before any app sees it."""
        of_the_app = (errors.InvalidResponseHeader, errors.InvalidResponseHeaderName)
        if isinstance(exc, of_the_app) or not isinstance(exc, errors.ParseException):
            super().handle_error(req, client, addr, exc)
            return
        status = _STATUSES.get(type(exc), http.HTTPStatus.BAD_REQUEST)
        self.log.debug("Refused a request from %s: %s", addr, type(exc).__name__)
        detail = f"The request cannot be read: {status.phrase}."
        content = problem_body(status, status.phrase, detail)
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "Connection: close\r\n"
            f"Content-Type: {PROBLEM}\r\n"
            f"Content-Length: {len(content)}\r\n"
            "Server-Timing: total;dur=0\r\n"
            f"X-Request-Id: {uuid.uuid4().hex}\r\n\r\n"
        )
        try:
            util.write_nonblock(client, head.encode() + content)
        except OSError:
            self.log.debug("The client did not wait for the answer.")


def _next_is_here(conn: Any) -> bool:
    """Whether a connection's next request has begun to arrive."""
    if conn.is_http2 or conn.parser is None:
        return False
    if conn.parser.unreader.buf.getvalue():
        return True
    poll = select.poll()
    poll.register(conn.sock, select.POLLIN)
    return bool(poll.poll(_STAY_MS))
