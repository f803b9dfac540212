"""The caller of a request: how long it waits, and whether it still does."""

from __future__ import annotations

import re
import select
import socket
import time
from typing import TYPE_CHECKING, Any

from flask import g, request

from modelserver.core.errors import BadRequest
from modelserver.engine.queue import Caller

if TYPE_CHECKING:
    from collections.abc import Callable

_HEADER = "X-Request-Timeout-Ms"
# Above 0; ten digits are a hundred days.
_MILLISECONDS = re.compile(r"0*[1-9][0-9]{0,9}", re.ASCII)
# The client has closed its side, also if something it sent is still unread. Only Linux
# shows that; elsewhere a connection must be gone altogether.
_CLOSED = getattr(select, "POLLRDHUP", 0)
_GONE = _CLOSED | select.POLLHUP | select.POLLERR


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
    return Caller(seconds, until, _closed_check(request.environ.get("gunicorn.socket")))


def _closed_check(connection: Any) -> Callable[[], bool]:
    """Return a function that checks whether a client has closed its connection.

    It peeks at gunicorn's socket. Under another server there is none, or one that must
    not be touched (TLS), and no client counts as gone.
    """
    if not isinstance(connection, socket.socket) or hasattr(connection, "cipher"):
        return lambda: False

    def is_gone() -> bool:
        try:
            poll = select.poll()
            poll.register(connection, _CLOSED)
            return any(events & _GONE for _, events in poll.poll(0))
        except (OSError, ValueError):  # closed by us meanwhile
            return True

    return is_gone
