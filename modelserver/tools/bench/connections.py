"""One kept connection to a server.

``http.client`` would do, but spends more on an answer's headers than all the rest here.
This reads what servers of ours and their like send: an answer with a length.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import ssl
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from modelserver.tools.bench.errors import BenchError

if TYPE_CHECKING:
    from modelserver.tools.bench.targets import Target

_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_MAX_HEAD_BYTES = 64 * 1024
_CHUNK_BYTES = 64 * 1024


class Answer(NamedTuple):
    """What a server answered.

    Attributes:
        head: status line and headers, as sent.
    """

    status: int
    head: bytes
    body: bytes


class Connection:
    """A connection that is made when needed and kept. For one thread at a time.

    Args:
        target: where to connect; its requests are for the caller to send.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._socket: socket.socket | None = None

    def open(self) -> socket.socket:
        """Connect, unless it is.

        Raises:
            BenchError: nobody listens there, or there is no such host.
        """
        if self._socket is None:
            self._socket = self._connect()
        return self._socket

    def _connect(self) -> socket.socket:
        target = self._target
        try:
            made = socket.create_connection(
                (target.host, target.port), target.timeout_s
            )
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return _secured(made, target.host) if target.secure else made
        except (OSError, UnicodeError) as error:  # a host's name may be no name at all
            why = getattr(error, "strerror", None) or error
            raise BenchError(
                f"No server answers at {target.address}: {why}."
                " Start it, or say where it is with --url."
            ) from error

    def ask(self, request: bytes) -> Answer:
        """Send a whole request and wait for the whole answer.

        Raises:
            BenchError: no connection, or the answer is not of HTTP/1.1 with a length.
            OSError: the connection broke or was too slow; the next call makes another.
        """
        connected = self.open()
        try:
            # A server may refuse, and close, before it has read everything.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                connected.sendall(request)
            answer = _read(connected)
        except BaseException:
            self.close()
            raise
        if _CLOSE.search(answer.head):
            self.close()
        return answer

    def close(self) -> None:
        """Close the connection. Idempotent; it may be used again."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _secured(made: socket.socket, host: str) -> socket.socket:
    try:
        return ssl.create_default_context().wrap_socket(made, server_hostname=host)
    except BaseException:
        made.close()
        raise


def _read(connected: socket.socket) -> Answer:
    buffer = bytearray()
    while (end := buffer.find(b"\r\n\r\n")) < 0:
        if len(buffer) > _MAX_HEAD_BYTES:
            raise BenchError("What answers is no HTTP server: its headers do not end.")
        buffer += _more(connected)
    head = bytes(buffer[:end])
    status = _STATUS.match(head)
    length = _LENGTH.search(head)
    if status is None or length is None:
        raise BenchError(
            "What answers is not measured by this: an answer of HTTP/1.1 with a"
            " Content-Length is needed."
        )
    whole = end + 4 + int(length[1])
    while len(buffer) < whole:
        buffer += _more(connected)
    return Answer(int(status[1]), head, bytes(buffer[end + 4 : whole]))


def _more(connected: socket.socket) -> bytes:
    part = connected.recv(_CHUNK_BYTES)
    if not part:
        raise ConnectionResetError("the server closed the connection")
    return part


def check(target: Target) -> None:
    """Send each request once; what a server refuses is not worth a measurement.

    Raises:
        BenchError: nobody answers, or not with 200; says what the server said.
    """
    with contextlib.closing(Connection(target)) as connection:
        for request in target.requests:
            try:
                answer = connection.ask(request)
            except OSError as error:
                raise BenchError(
                    f"The server at {target.address} breaks the connection, or takes"
                    f" too long: {error}."
                ) from error
            if answer.status != HTTPStatus.OK:
                raise BenchError(
                    f"The server answers {answer.status}: {_detail(answer.body)}"
                )


def _detail(body: bytes) -> str:
    """Return what a problem's body says, in one line of at most 300 characters."""
    try:
        said = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        said = body.decode(errors="replace")
    return " ".join(str(said).split())[:300] or "and says nothing more."
