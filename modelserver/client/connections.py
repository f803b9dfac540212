"""The clients' use of httpx: its requests, its options, its errors in our words.

They use httpx's transports, not its clients: those care for cookies, redirects and the
like, which takes twice as long for each photo, on a machine that the server may need.
"""

from __future__ import annotations

import ssl
import urllib.request
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import httpx

from modelserver.client.errors import (
    BadAnswer,
    ClientError,
    ConnectionBroken,
    TimedOut,
    Unreachable,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from modelserver.client.calls import Call

DEFAULT_TIMEOUT_S = 60.0
# Shorter than the server keeps a connection, so that none closes as it is used again.
_KEEP_S = 4.0


@dataclass(frozen=True)
class Server:
    """The address of a server, and the headers and timeouts of its requests. Immutable.

    Attributes:
        url: without a slash at its end.
        headers: of each request.
        extensions: httpx's, with the timeouts.
    """

    url: httpx.URL
    headers: Mapping[str, str]
    extensions: Mapping[str, Any]

    @classmethod
    def of(cls, base_url: str, token: str | None, timeout_s: float) -> Server:
        """Return the server at a URL.

        Raises:
            ClientError: the URL is invalid, or the token cannot stand in a header.
        """
        wrong = f"{base_url!r} is no URL of a server, such as http://127.0.0.1:5000"
        try:
            url = httpx.URL(base_url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ClientError(f"{wrong}: {error}.") from error
        # httpx takes an open bracket, of an IPv6 address cut off, for part of a name.
        named = url.host and not url.host.startswith("%5B")
        if url.scheme not in ("http", "https") or not named:
            raise ClientError(f"{wrong}.")
        if token and not (token.isascii() and token.isprintable()):
            raise ClientError("The token may have visible ASCII letters only.")
        headers = {"Accept": "application/json", "User-Agent": "modelserver-client"}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        timeout = httpx.Timeout(timeout_s, pool=None).as_dict()
        bare = url.copy_with(path=url.path.rstrip("/"), query=None, fragment=None)
        return cls(bare, headers, {"timeout": timeout})

    def request(self, call: Call[Any]) -> httpx.Request:
        """Return httpx's request for a call."""
        return httpx.Request(
            call.method,
            _address(self.url, call.path),
            headers={**self.headers, **(call.headers or {})},
            content=call.content,
            extensions=dict(self.extensions),
        )

    def options(self) -> dict[str, Any]:
        """Return the arguments of httpx's transport to the server.

        A proxy is taken from the environment, as other programs do.
        """
        made: dict[str, Any] = {
            "limits": httpx.Limits(max_connections=None, keepalive_expiry=_KEEP_S),
        }
        proxy = urllib.request.getproxies().get(self.url.scheme)
        if proxy and not urllib.request.proxy_bypass(self.url.host):
            made["proxy"] = proxy
        elif self.url.scheme == "http":
            # Reading every certificate of the machine takes longer than some models.
            # This context trusts none.
            made["verify"] = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        return made

    def translate(self, error: httpx.TransportError) -> ClientError:
        """Return an error of the transport as one of ours."""
        server = f"{self.url.host}:{self.url.port or self.url.scheme}"
        why = str(error) or type(error).__name__
        if isinstance(error, (httpx.ConnectError, httpx.ConnectTimeout)):
            return Unreachable(f"No server answers at {server}: {why}.")
        if isinstance(error, httpx.TimeoutException):
            return TimedOut(f"The server at {server} takes too long: {why}.")
        if isinstance(error, (httpx.NetworkError, httpx.RemoteProtocolError)):
            return ConnectionBroken(f"The connection to {server} broke: {why}.")
        return BadAnswer(f"What answers at {server} is not understood: {why}.")


# Taking a URL apart costs a tenth of a photo's time, and a client asks few paths.
@lru_cache(maxsize=128)
def _address(server: httpx.URL, path: str) -> httpx.URL:
    """Return the URL of a path on a server."""
    return server.copy_with(path=server.path.rstrip("/") + path)
