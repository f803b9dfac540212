"""Connections: read, answered and closed without waiting for their clients.

gunicorn closes a connection in its one main loop, and waits there up to two seconds for
the client to close its side. Here the loop only reads when there is something to read.
"""

from __future__ import annotations

import contextlib
import errno
import select
import selectors
import socket
import struct
import time
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from gunicorn.workers.gthread import TConn

from modelserver.web.server.arrivals import Arrival

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import ReadableBuffer

    from modelserver.web.server.arrivals import Rules

# So many bytes, for so long, that an answered client still sends are read and thrown
# away: closed earlier, its system would drop the answer that it has not read.
LINGER_BYTES = 1 << 20
LINGER_S = 1.0
# A client that does not take its answer for so long will not.
SEND_S = 30.0
_MOST_HELD = 64 * 1024
# Bytes of one read, and reads before others have their turn.
_READ_BYTES = 256 * 1024
_READS = 4
# How long a thread stays with a connection whose next request may be on its way: a
# client that waits for each answer sends the next request within this time.
_STAY_MS = 2
# As often it waits so long for the rest of that request.
_STAYS = 5
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
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
        self._unwatched: list[socket.socket] = []
        self._waste = bytearray(256 * 1024)

    def __len__(self) -> int:
        return len(self._left)

    def take(self, sock: socket.socket, *, watch: bool = True) -> None:
        """Close our side of a connection, and the rest when its client has too.

        Args:
            watch: have the poller tell of it; else ``look`` is called some milliseconds
                later. Most clients have closed by then, and a turn of the main loop for
                each of them would cost more than all the rest of a refusal.
        """
        try:
            sock.shutdown(socket.SHUT_WR)
            if sock.gettimeout():  # it would wait in spite of recv's flag
                sock.settimeout(0)
        except OSError:
            sock.close()
            return
        self._left[sock] = LINGER_BYTES
        self._count(1)
        self._guests.append(_Guest(sock, self._clock() + LINGER_S))
        if watch:
            self._watch(sock)
        else:
            self._unwatched.append(sock)

    def look(self) -> None:
        """Close those that were taken unwatched and have ended; watch the others."""
        unwatched, self._unwatched = self._unwatched, []
        for sock in unwatched:
            if sock in self._left:  # not evicted since
                self._watch(sock)

    def _watch(self, sock: socket.socket) -> None:
        if not self._read(sock):
            self._drop(sock)
            return
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


class AnswerSocket(socket.socket):
    """A connection that answers in few packets, and gives up on who takes none.

    For one thread at a time.

    Attributes:
        head_at: when the present request's head was read, in seconds of
            ``time.perf_counter``; the app finds it here.
    """

    head_at = 0.0
    _held: bytearray | None = None

    @classmethod
    def of(cls, plain: socket.socket) -> AnswerSocket:
        """Take a connection over; the given object is detached from it."""
        taken = cls(plain.family, plain.type, plain.proto, plain.detach())
        # The kernel's own timeout: Python's would poll before each call.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_S))
        return taken

    def hold(self) -> None:
        """Hold bytes that are sent from now on until ``release``, or a limit.

        gunicorn sends an answer's head and its body one after the other: two system
        calls, two packets, and twice a wait for the interpreter's lock.
        """
        self._held = bytearray()

    def release(self) -> None:
        """Send the held bytes.

        Raises:
            BrokenPipeError: as for ``sendall``.
        """
        held, self._held = self._held, None
        if held:
            self.sendall(held)

    def sendall(self, data: ReadableBuffer, flags: int = 0, /) -> None:
        """Send everything.

        Raises:
            BrokenPipeError: the client took nothing for ``SEND_S``; to gunicorn that is
                a client that has gone.
        """
        if self._held is not None:
            self._held += data
            if len(self._held) < _MOST_HELD:
                return
            data, self._held = self._held, bytearray()
        try:
            super().sendall(data, flags)
        except BlockingIOError:
            raise BrokenPipeError(errno.EPIPE, "the client takes nothing") from None

    def sendfile(self, file: Any, offset: int = 0, count: int | None = None) -> int:
        """Send a file, after the held bytes: its own do not come by ``sendall``."""
        self.release()
        return super().sendfile(file, offset, count)


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))


class Connection(TConn):  # type: ignore[misc] # gunicorn has no types
    """gunicorn's, read without waiting, and closed without waiting for it.

    For one thread at a time: the main loop's, or that of its request.

    Attributes:
        parser: what is read.
        is_watched: whether the main loop's poller has it.
    """

    parser: Arrival

    def __init__(
        self,
        cfg: Any,
        sock: socket.socket,
        address: tuple[Any, Any],
        *,
        rules: Rules,
        lingering: Lingering,
    ) -> None:
        client, server = address
        super().__init__(cfg, sock, client, server)
        self.parser = Arrival(cfg, client, rules)
        self.is_watched = False
        # There is nothing that gunicorn has to prepare, or to wait for.
        self.initialized = self.data_ready = True
        self._lingering = lingering

    def read(self) -> bool:
        """Take what has come, without waiting; return ``parser.ready``."""
        arrival = self.parser
        for _ in range(_READS):
            try:
                data = self.sock.recv(_READ_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except OSError:  # reset
                arrival.abandon()
                break
            if arrival.take(data) or len(data) < _READ_BYTES:
                break
        if arrival.is_awaited:
            arrival.is_awaited = False
            with contextlib.suppress(OSError):  # its reader will notice
                self.sock.send(_CONTINUE, socket.MSG_DONTWAIT)
        return arrival.ready

    def read_on(self) -> bool:
        """Read a request that comes at once, for some milliseconds.

        Returns:
            Whether it is there, whole; else the main loop has to see to it.
        """
        until = time.monotonic() + _STAY_MS * _STAYS / 1000
        while not self.parser.ready:
            if not has_data(self.sock, _STAY_MS):
                return False
            if not self.read() and time.monotonic() > until:
                return False
        return self.parser.error is None

    def close(self, graceful: bool = False) -> None:  # noqa: FBT001, FBT002 - gunicorn's
        """Close; gracefully means that the client may still read its answer."""
        self.parser.close()
        if graceful:
            self._lingering.take(self.sock)
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
