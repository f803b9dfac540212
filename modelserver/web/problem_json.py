"""What a problem looks like (RFC 9457), for Flask's answers and for gunicorn's own.

To the standard's members ``error`` is added, with the detail's text: many clients of
other model servers read that.
"""

from __future__ import annotations

import itertools
import math
import os
import secrets
from typing import TYPE_CHECKING

import msgspec

from modelserver.core.contract import Problem

if TYPE_CHECKING:
    from http import HTTPStatus

    from modelserver.core.errors import RequestError

PROBLEM = "application/problem+json"


# Random once and then counted: reading randomness for each request would be one more
# wait for the interpreter's lock.
_RANDOM = secrets.token_hex(8)
_COUNT = itertools.count()


def request_id() -> str:
    """Return an id that no other request has, of 32 hex digits; thread-safe.

    The process's own id is in it: a worker that takes the place of another begins with
    the same random part.
    """
    return f"{_RANDOM}{os.getpid():08x}{next(_COUNT):08x}"


def problem_body(
    status: int, title: str, detail: str, slug: str | None = None
) -> bytes:
    """Return a problem as JSON.

    Args:
        slug: names the type; a problem without one is of type ``about:blank``.
    """
    return msgspec.json.encode(_problem(status, title, detail, slug))


def problem_of(error: RequestError) -> Problem:
    """Return an error of ours as a problem."""
    return _problem(error.status, error.title, str(error), error.slug)


def _problem(status: int, title: str, detail: str, slug: str | None) -> Problem:
    kind = f"/problems/{slug}" if slug else "about:blank"
    return Problem(
        type=kind, title=title, status=int(status), detail=detail, error=detail
    )


def plain_problem(error: RequestError, headers: str = "") -> bytes:
    """Return an error of ours as a whole HTTP answer; see ``plain_answer``."""
    content = problem_body(error.status, error.title, str(error), error.slug)
    if error.retry_after_s is not None:
        headers += f"Retry-After: {math.ceil(error.retry_after_s)}\r\n"
    return _answer(error.status, content, headers)


def plain_answer(status: HTTPStatus, detail: str, headers: str = "") -> bytes:
    """Return a problem as a whole HTTP answer, where no app makes one.

    The connection is to be closed after it: what the client sent was not read to its
    end.

    Args:
        headers: more of them, a line each.
    """
    return _answer(status, problem_body(status, status.phrase, detail), headers)


def _answer(status: HTTPStatus, content: bytes, headers: str) -> bytes:
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        "Connection: close\r\n"
        f"Content-Type: {PROBLEM}\r\n"
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
