"""The caller of a request: how long it waits, and whether it still does."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import g, request

from modelserver.core.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterable

_HEADER = "X-Request-Timeout-Ms"
# Above 0; ten digits are a hundred days.
_MILLISECONDS = re.compile(r"0*[1-9][0-9]{0,9}", re.ASCII)
# The client has closed its side, also if something it sent is still unread. Only Linux
# shows that; elsewhere a connection must be gone altogether.
_CLOSED = getattr(select, "POLLRDHUP", 0)
_GONE = select.POLLHUP | select.POLLERR | select.POLLNVAL
_INTERIM = b"HTTP/1.1 100 Continue\r\n\r\n"


@dataclass
class Caller:
    """The one who waits for an answer, and for how long.

    Attributes:
        seconds: how long the caller waits in all.
        until: when that ends, in seconds of ``time.perf_counter``.
        connection: the client's, if it can be asked whether it is still there.
        has_left: the door saw that the client has gone.
        may_be_asked: what :meth:`ask` sends is no fault of protocol.
        is_asked: it was sent.
    """

    seconds: float
    until: float
    connection: socket.socket | None = None
    has_left: bool = False
    may_be_asked: bool = False
    is_asked: bool = False

    def ask(self) -> None:
        """Send what shows whether a client that has closed its side still listens.

        One that does may be a script that has no more to say. It passes over an interim
        answer (RFC 9110, 15.2), and the system of one that does not resets the
        connection. For the request's thread, before its answer.
        """
        connection = self.connection  # which the thread that looks may take away
        if connection is not None and not self.is_asked:
            self.is_asked = True
            with contextlib.suppress(OSError):  # it has gone
                connection.send(_INTERIM, socket.MSG_DONTWAIT)


def own_limit() -> float | None:
    """Return how many seconds the client waits, if its request says so.

    Raises:
        BadRequest: the header is not a number of milliseconds above 0.
    """
    given = request.headers.get(_HEADER)
    if given is None:
        return None
    if not _MILLISECONDS.fullmatch(given):
        raise BadRequest(f"{_HEADER} must be a whole number of milliseconds.")
    return int(given) / 1000


def present_caller(limit_s: float) -> Caller:
    """Return who waits for the present request: its door noted it, or HTTP tells.

    Args:
        limit_s: the server's ``REQUEST_TIMEOUT_S``.

    Raises:
        BadRequest: as ``own_limit``.
    """
    noted: Caller | None = g.get("caller")
    return noted or caller(limit_s, own_limit())


def caller(limit_s: float, own_s: float | None = None) -> Caller:
    """Return the caller of the present request, once its upload is there.

    The server's ``REQUEST_TIMEOUT_S`` runs from now: slow uploads have limits of their
    own. The client's runs from when its request's head was read, as the client counts.

    Args:
        limit_s: the server's ``REQUEST_TIMEOUT_S``.
        own_s: as ``own_limit`` gave it.
    """
    seconds, until = limit_s, time.perf_counter() + limit_s
    if own_s is not None and g.started + own_s < until:
        seconds, until = own_s, g.started + own_s
    connection = _connection(request.environ.get("gunicorn.socket"))
    # HTTP/1.0 has no interim answers.
    is_current = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.1"
    return Caller(seconds, until, connection, may_be_asked=is_current)


def _connection(given: Any) -> socket.socket | None:
    """Return gunicorn's socket, to be looked at.

    Under another server there is none, or one that must not be touched (TLS), and no
    client counts as gone.
    """
    if isinstance(given, socket.socket) and not hasattr(given, "cipher"):
        return given
    return None


def closed(
    connections: Iterable[socket.socket | None],
) -> dict[socket.socket, bool]:
    """Return those that their clients have closed, by one system call.

    Returns:
        For each, whether it is closed in both directions; else its client may still
        listen.
    """
    known = {one.fileno(): one for one in connections if one is not None}
    gone = known.pop(-1, None)  # closed by us meanwhile
    poll = select.poll()
    for descriptor in known:
        poll.register(descriptor, _CLOSED)
    found = (
        {known[fd]: bool(events & _GONE) for fd, events in poll.poll(0)}
        if known
        else {}
    )
    return found if gone is None else {**found, gone: True}
