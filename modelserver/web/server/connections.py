"""Connections that have no thread: those that are silent, or were answered.

gunicorn closes a connection in its one main loop, and waits there up to two seconds for
the client to close its side. Here the loop only reads when there is something to read.
"""

from __future__ import annotations

import contextlib
import errno
import select
import selectors
import socket
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from gunicorn.workers.gthread import TConn

if TYPE_CHECKING:
    from collections.abc import Callable

# So many bytes, for so long, that an answered client still sends are read and thrown
# away: closed earlier, its system would drop the answer that it has not read.
LINGER_BYTES = 1 << 20
LINGER_S = 1.0
# Linux throws the bytes away without copying them.
_DISCARD = getattr(socket, "MSG_TRUNC", 0) | socket.MSG_DONTWAIT
_GONE_BEFORE_ACCEPTED = {errno.EAGAIN, errno.EWOULDBLOCK, errno.ECONNABORTED}


class _Guest(NamedTuple):
    """A connection that lingers until a time."""

    sock: socket.socket
    until: float


class Lingering:
    """Connections that were answered, read until their clients close.

    Not thread-safe: the main loop's.

    Args:
        poller: returns the main loop's.
        count: called with +1 and -1 as connections come and go.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        poller: Callable[[], selectors.BaseSelector],
        count: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._poller = poller
        self._count = count
        self._clock = clock
        self._guests: deque[_Guest] = deque()
        self._left: dict[socket.socket, int] = {}
        self._waste = bytearray(256 * 1024)

    def __len__(self) -> int:
        return len(self._left)

    def take(self, sock: socket.socket) -> None:
        """Close our side of a connection, and the rest when its client has too."""
        try:
            sock.shutdown(socket.SHUT_WR)
            if sock.gettimeout():  # it would wait in spite of recv's flag
                sock.settimeout(0)
        except OSError:
            sock.close()
            return
        self._left[sock] = LINGER_BYTES
        self._count(1)
        if not self._read(sock):
            self._drop(sock)
            return
        self._guests.append(_Guest(sock, self._clock() + LINGER_S))
        try:
            self._poller().register(sock, selectors.EVENT_READ, self._readable)
        except OSError:  # the system has no memory for one more
            self._drop(sock)

    def expire(self) -> None:
        """Close those whose time is over."""
        now = self._clock()
        while self._guests:
            guest = self._guests[0]
            if guest.sock in self._left:
                if guest.until > now:
                    return
                self._leave(guest.sock)
            self._guests.popleft()

    def evict(self) -> bool:
        """Close the one that has been here for longest, if there is one."""
        while self._guests:
            sock = self._guests.popleft().sock
            if sock in self._left:
                self._leave(sock)
                return True
        return False

    def _readable(self, sock: socket.socket) -> None:
        # It may have been closed since the main loop heard of it.
        if sock in self._left and not self._read(sock):
            self._leave(sock)

    def _read(self, sock: socket.socket) -> bool:
        """Throw away all that can be read; return whether more may come."""
        try:
            while self._left[sock] > 0:
                count = sock.recv_into(self._waste, 0, _DISCARD)
                if not count:
                    return False
                self._left[sock] -= count
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def _leave(self, sock: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._poller().unregister(sock)
        self._drop(sock)

    def _drop(self, sock: socket.socket) -> None:
        del self._left[sock]
        self._count(-1)
        with contextlib.suppress(OSError):
            sock.close()


class Connection(TConn):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's, closed without waiting for it."""

    lingering: Lingering

    def close(self, graceful: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's
        """Close; gracefully means that the client may still read its answer."""
        if graceful:
            self.lingering.take(self.sock)
        else:
            super().close(graceful)


def accept(listener: socket.socket) -> tuple[socket.socket, Any] | None:
    """Accept a connection; ``None`` if there is none any more.

    Raises:
        OSError: there are no file descriptors left, or the listener is broken.
    """
    try:
        return listener.accept()
    except OSError as error:
        if error.errno in _GONE_BEFORE_ACCEPTED:
            return None
        raise


def has_data(sock: socket.socket, wait_ms: int = 0) -> bool:
    """Return whether there is something to read, or the connection's end."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(wait_ms))


def peek(sock: socket.socket, size: int) -> bytes | None:
    """Return the first bytes that wait to be read; they stay unread.

    Returns:
        Nothing at the connection's end, and ``None`` if nothing has come yet.
    """
    try:
        return sock.recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:  # reset: its reader will notice
        return b""
