"""The hooks of every request: its id, its token, its clean-up, its headers."""

from __future__ import annotations

import hmac
import re
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flask import g, request
from werkzeug.exceptions import NotFound

from modelserver.core import logs
from modelserver.core.errors import LoopbackOnly, Unauthorized
from modelserver.core.metrics import STAGES
from modelserver.core.settings import is_loopback
from modelserver.web.dialects.dialect import body_routes, current, current_route
from modelserver.web.forms import head_fields, uploads
from modelserver.web.keys import FormKey
from modelserver.web.origins import Hosts, Origins
from modelserver.web.problems import request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from flask import Flask, Response

    from modelserver.core.messages.requests import Seen
    from modelserver.web.backend import Backend
    from modelserver.web.dialects.dialect import Dialect, Route

# Probes carry no token, and pages and descriptions themselves show nothing.
_OPEN = frozenset(
    {
        "api.livez",
        "api.readyz",
        "documents.openapi",
        "documents.show",
        "explain",
        "page.sample",
        "page.script",
        "page.show",
        "static",
    }
)
# For JSON as much as for pages: a browser may open an answer by itself.
_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    # Not "no-referrer", with which browsers send "Origin: null" to this very server.
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)
_PAGE_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def install(app: Flask, backend: Backend) -> None:
    """Register the steps before and after each request."""
    settings = backend.settings
    token = settings.api_token.encode()
    hosts = Hosts(settings)
    origins = Origins(settings.cors_origins)

    def begin() -> Response | None:
        # Under our worker the body was read meanwhile.
        connection = request.environ.get("gunicorn.socket")
        g.started = getattr(connection, "head_at", None) or time.perf_counter()
        g.request_id = given_id(request.headers.get("X-Request-Id", ""))
        logs.bind(request_id=g.request_id)
        backend.start()
        environ = request.environ
        hosts.check(environ)
        if environ.get("PATH_INFO", "").startswith("//"):
            # Werkzeug takes it for a path with one slash, and a proxy's rule does not.
            raise NotFound
        asked = origins.preflight(request)
        if asked is not None:  # it carries no token
            return asked
        origins.check(environ)
        if token and not is_open():
            check_token(token)
        if not token and not settings.allow_anonymous:
            check_loopback(
                request.remote_addr, request.headers.get("X-Forwarded-For", "")
            )
        return None

    def end(response: Response) -> Response:
        origins.add_headers(request, response)
        return add_headers(response)

    app.before_request(begin)
    app.after_request(end)
    app.teardown_request(drop_uploads)


def is_open() -> bool:
    """Return whether the present request needs no token."""
    route = current_route()
    return request.endpoint in _OPEN or (route is not None and route.is_open)


def check_token(token: bytes) -> None:
    """Compare the request's token in constant time, before its body is read.

    A dialect's clients may have it in a header of its own, or in the form, which then
    is read a little first; see ``keys``.

    Raises:
        Unauthorized: it is missing or another one.
    """
    headers, dialect = request.headers, current()
    if has_token(token, headers.get("X-API-Key", ""), headers.get("Authorization", "")):
        return
    if dialect is None:
        raise Unauthorized
    if hmac.compare_digest(dialect.key_of(headers).encode(), token):
        return
    if not dialect.has_key_in_form(current_route()):
        raise Unauthorized
    g.form_key = FormKey(token, dialect.key_fields)


def has_token(token: bytes, key: str, authorization: str) -> bool:
    """Return whether a request has the token, in constant time.

    Args:
        key: its ``X-API-Key``.
        authorization: its ``Authorization``, which counts if it is a bearer's.
    """
    scheme, _, rest = authorization.partition(" ")
    given = rest.strip() if scheme.lower() == "bearer" else key
    return hmac.compare_digest(given.encode(), token)


class BodyCheck:
    """Tells by a request's head whether the app would read its body.

    Where that is not certain the answer is yes.

    Args:
        token: ``API_TOKEN``.
        routes: those of tasks.
        dialects: whose routes may read bodies as well.
    """

    def __init__(
        self, token: str, routes: Iterable[str], dialects: Iterable[Dialect] = ()
    ) -> None:
        self._token = token.encode()
        self._routes = tuple(routes)
        self._others = body_routes(dialects)

    def __call__(self, head: Any) -> bool:
        """Return whether a body will be read.

        Args:
            head: gunicorn's request.
        """
        if head.method != "POST":
            return False
        # As the app sees a path, which may begin with the name of a proxy's folder.
        path = unquote(head.path)
        others = self._of_dialects(path)
        if not others and not path.endswith(self._routes):
            return False
        if not self._token or self._has_token(head, others):
            return True
        return any(dialect.has_key_in_form(route) for dialect, route in others)

    def form_key(self, head: Any) -> Callable[[bytes], bool] | None:
        """Return what tells whether the beginning of a body has the token.

        ``None`` if it need not be there.

        Args:
            head: gunicorn's request, whose body will be read.
        """
        others = self._of_dialects(unquote(head.path))
        if not self._token or self._has_token(head, others):
            return None
        for dialect, route in others:
            if route.form is not None and dialect.has_key_in_form(route):
                key, shape = FormKey(self._token, dialect.key_fields), route.form
                kind = dict(head.headers).get("CONTENT-TYPE", "")
                return lambda start: key.is_in(head_fields(start, kind, shape).fields)
        return None

    def _of_dialects(self, path: str) -> list[tuple[Dialect, Route]]:
        return [
            (dialect, route)
            for pattern, dialect, route in self._others
            if pattern.search(path)
        ]

    def _has_token(self, head: Any, others: Iterable[tuple[Dialect, Route]]) -> bool:
        given: dict[str, str] = {}
        for name, value in head.headers:
            given[name] = f"{given[name]},{value}" if name in given else value
        key, authorization = given.get("X-API-KEY", ""), given.get("AUTHORIZATION", "")
        return has_token(self._token, key, authorization) or any(
            hmac.compare_digest(
                given.get(dialect.key_header.upper(), "").encode(), self._token
            )
            for dialect, _ in others
        )


def check_loopback(address: str | None, forwarded: str = "") -> None:
    """Refuse clients on other machines.

    ``web.server`` refuses to listen elsewhere without a token; this holds too if
    gunicorn was started without our configuration, or another server is used.

    Args:
        address: of the peer.
        forwarded: the client of a proxy, as ``X-Forwarded-For`` says: a proxy on
            this machine would let the world in. Only a refusal can come of it.

    Raises:
        LoopbackOnly: the client is on another machine.
    """
    client = forwarded.rpartition(",")[2].strip()
    if any(name and not is_loopback(name) for name in (address, client)):
        raise LoopbackOnly


def note_evaluations(*seen: Seen) -> None:
    """Note how long evaluations took, for ``Server-Timing`` and traces."""
    g.seen = seen


def given_id(given: str) -> str:
    """Return a request's id: the client's own if it is a plain word, or a new one."""
    return given if _REQUEST_ID.fullmatch(given) else request_id()


def timing() -> str:
    """Return how long the present request took, as ``Server-Timing`` has it."""
    entries = []
    if seen := g.get("seen"):
        for name in STAGES:
            milliseconds = sum(getattr(each, name) for each in seen)
            entries.append(f"{name};dur={milliseconds:.2f}")
    total_ms = (time.perf_counter() - g.started) * 1000
    return ", ".join([*entries, f"total;dur={total_ms:.2f}"])


def add_headers(response: Response) -> Response:
    """Add the headers that every answer has."""
    response.headers.extend(
        (
            ("Server-Timing", timing()),
            ("X-Request-Id", g.request_id),
            *_HEADERS,
        )
    )
    if response.mimetype == "text/html":
        response.headers["Content-Security-Policy"] = _PAGE_POLICY
    if request.endpoint not in {"static", "page.script"}:
        response.headers["Cache-Control"] = "no-store"
    return response


def drop_uploads(_error: BaseException | None) -> None:
    """Remove the request's uploads, also if it failed."""
    for upload in uploads():
        upload.close()
