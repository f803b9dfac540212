"""What happens to every request: its number, its token, its clean-up, its headers."""

from __future__ import annotations

import hmac
import itertools
import re
import secrets
import time
from typing import TYPE_CHECKING

from flask import g, request

from modelserver.errors import LoopbackOnly, Unauthorized
from modelserver.settings import is_loopback
from modelserver.web.backend import backend
from modelserver.web.forms import uploads

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask, Response

    from modelserver.service import Timings
    from modelserver.settings import Settings

# Probes carry no token, and the page itself tells nothing.
_OPEN = frozenset({"api.livez", "api.readyz", "page.show", "explain", "static"})
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def install(app: Flask, settings: Settings) -> None:
    """Register what is done before and after each request."""
    token = settings.api_token.encode()
    numbers = request_ids()

    def begin() -> None:
        g.started = time.perf_counter()
        given = request.headers.get("X-Request-Id", "")
        g.request_id = given if _REQUEST_ID.fullmatch(given) else next(numbers)
        backend().start()
        if token and request.endpoint not in _OPEN:
            check_token(token)
        if not token and not settings.allow_anonymous:
            check_loopback(request.remote_addr)

    app.before_request(begin)
    app.after_request(add_headers)
    app.teardown_request(drop_uploads)


def request_ids() -> Iterator[str]:
    """Yield ids that no other request has, of 32 hex digits; thread-safe.

    They are random where they begin and then counted: reading randomness for each
    request would be one more wait for the interpreter's lock.
    """
    prefix = secrets.token_hex(12)
    return map(f"{prefix}{{:08x}}".format, itertools.count())


def check_token(token: bytes) -> None:
    """Compare the request's token in constant time, before its body is read.

    Raises:
        Unauthorized: it is missing or another one.
    """
    given = request.headers.get("X-API-Key", "")
    scheme, _, rest = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        given = rest.strip()
    if not hmac.compare_digest(given.encode(), token):
        raise Unauthorized


def check_loopback(address: str | None) -> None:
    """Let only this machine in.

    ``web.serving`` refuses to listen elsewhere without a token; this holds too where
    gunicorn was started without our configuration, or another server is used.

    Raises:
        LoopbackOnly: the client is on another machine.
    """
    if address and not is_loopback(address):
        raise LoopbackOnly


def note_timings(timings: Timings) -> None:
    """Have the answer to this request carry the stages' times."""
    g.timings = timings


def add_headers(response: Response) -> Response:
    """Add the headers that every answer has."""
    entries = []
    timings: Timings | None = g.get("timings")
    if timings is not None:
        stages = ("decode", "queue", "run", "post")
        entries = [f"{name};dur={getattr(timings, name):.2f}" for name in stages]
    total_ms = (time.perf_counter() - g.started) * 1000
    entries.append(f"total;dur={total_ms:.2f}")
    response.headers["Server-Timing"] = ", ".join(entries)
    response.headers["X-Request-Id"] = g.request_id
    response.headers["X-Content-Type-Options"] = "nosniff"
    return response


def drop_uploads(_error: BaseException | None) -> None:
    """Remove what the request uploaded, whatever came of it."""
    for upload in uploads():
        upload.close()
