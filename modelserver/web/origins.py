"""The checks of Host and Origin: which pages may make a browser send here.

A page by a stranger runs in the browser of a user who reaches this server. It can send
a form to any address (cross-site request forgery), and it can have its own name point
to this machine and then read the answers too (DNS rebinding). Programs are not
restrained by any of this, and send none of these headers.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING

from flask import Response
from werkzeug.exceptions import MethodNotAllowed

from modelserver.core.errors import CrossSite, UntrustedHost

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment
    from flask import Request

    from modelserver.core.settings import Settings

# They change and compute nothing, and a foreign page cannot read their answers.
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Orchestrators ask by addresses that cannot be listed beforehand.
_PROBES = frozenset({"/livez", "/readyz"})
_ALLOWED_HEADERS = (
    "Authorization, Content-Type, X-API-Key, X-Request-Id, X-Request-Timeout-Ms"
)
_EXPOSED_HEADERS = (
    "Retry-After, Server-Timing, X-Below-Confidence, X-Image-Height, "
    "X-Image-Orientation, X-Image-Width, X-Model, X-Model-Digest, X-Request-Id"
)
# How long a browser may remember a preflight's answer; two hours are the most that
# Chromium takes.
_MAX_AGE_S = "7200"
_REMEMBERED = 64


class Hosts:
    """The names that the ``Host`` header may have. Immutable.

    Args:
        settings: ``TRUSTED_HOSTS``, and whether others than this machine may come.
    """

    def __init__(self, settings: Settings) -> None:
        self._exact = frozenset(settings.trusted_hosts)
        self._domains = tuple(h for h in settings.trusted_hosts if h.startswith("."))
        self._open = bool(settings.api_token) or settings.allow_anonymous
        # Clients name the one host that they know, again and again.
        self._trusts = lru_cache(_REMEMBERED)(self._decide)

    def check(self, environ: WSGIEnvironment) -> None:
        """Refuse a request for another name.

        Raises:
            UntrustedHost: the header is missing, or its name is not answered to.
        """
        given = environ.get("HTTP_HOST", "")
        if not given:
            # Only HTTP/1.1 demands the header, and every browser speaks that.
            if environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
                raise UntrustedHost
        elif environ.get("PATH_INFO") not in _PROBES:
            # A Unix socket has no name, and its clients no address.
            by_name = bool(self._exact) or bool(environ.get("REMOTE_ADDR"))
            if by_name and not self._trusts(given):
                raise UntrustedHost

    def _decide(self, host: str) -> bool:
        name = _name(host)
        if not self._exact:
            # No page can have an address for its name.
            return self._open or _is_local(name)
        below = any(("." + name).endswith(domain) for domain in self._domains)
        return below or name in self._exact


def _name(host: str) -> str:
    """Return a ``Host`` header's name or address, without its port, in lower case."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name = host
    return name.removeprefix("[").removesuffix("]").removesuffix(".").lower()


def _is_local(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class Origins:
    """The sites whose pages may send requests. Immutable.

    Args:
        allowed: origins, in lower case, or ``*``.
    """

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._any = "*" in allowed
        self._allowed = frozenset(allowed)

    def check(self, environ: WSGIEnvironment) -> None:
        """Refuse a request that a page of a foreign site had a browser send.

        Raises:
            CrossSite: the browser says so, or the origin is another one.
        """
        if environ["REQUEST_METHOD"] in _SAFE_METHODS:
            return
        site = environ.get("HTTP_SEC_FETCH_SITE")
        origin = environ.get("HTTP_ORIGIN")
        if (site is None and origin is None) or self._allows(origin):
            return
        if site is None:
            # Without the scheme, which a proxy may have taken off.
            _, _, authority = (origin or "").lower().partition("://")
            same = authority == environ.get("HTTP_HOST", "").lower()
        else:
            same = site in {"same-origin", "none"}
        if not same:
            raise CrossSite

    def preflight(self, request: Request) -> Response | None:
        """Answer a browser that asks before it sends; ``None`` for other requests."""
        environ = request.environ
        if environ["REQUEST_METHOD"] != "OPTIONS":
            return None
        # No route takes OPTIONS; this tells a path that is there from one that is not.
        here = request.routing_exception
        asked = "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        if not asked or not isinstance(here, MethodNotAllowed):
            return None
        if not self._allows(environ.get("HTTP_ORIGIN")):
            return None
        response = Response(status=204)
        methods = ", ".join(sorted(here.valid_methods or ()))
        response.headers["Access-Control-Allow-Methods"] = methods
        response.headers["Access-Control-Allow-Headers"] = _ALLOWED_HEADERS
        response.headers["Access-Control-Max-Age"] = _MAX_AGE_S
        return response

    def add_headers(self, request: Request, response: Response) -> None:
        """Let the pages of an allowed site read the answer; never with cookies."""
        if not self._allowed:
            return
        if not self._any:
            response.headers.add("Vary", "Origin")
        origin = request.environ.get("HTTP_ORIGIN")
        if self._allows(origin):
            response.headers["Access-Control-Allow-Origin"] = (
                "*" if self._any else str(origin)
            )
            response.headers["Access-Control-Expose-Headers"] = _EXPOSED_HEADERS

    def unread_headers(self) -> str | None:
        """Return ``add_headers``'s headers for a request whose origin was not read.

        Returns:
            Lines of an answer's head, ``None`` if they depend on the origin: with more
            than one site to choose from.
        """
        if not self._allowed:
            return ""
        if len(self._allowed) > 1:
            return None
        # To a page of another site the browser does not give the answer.
        (origin,) = self._allowed
        vary = "" if self._any else "Vary: Origin\r\n"
        return (
            f"{vary}Access-Control-Allow-Origin: {origin}\r\n"
            f"Access-Control-Expose-Headers: {_EXPOSED_HEADERS}\r\n"
        )

    def _allows(self, origin: str | None) -> bool:
        return origin is not None and (self._any or origin.lower() in self._allowed)
