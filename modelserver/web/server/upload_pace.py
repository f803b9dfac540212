"""How slowly a request may come, and in how small pieces.

A thread reads each request from a blocking socket, and gunicorn sets no limit: a client
that sends one byte a minute holds a thread for ever. The limits here cost one call when
a connection is made and one look at the clock for each read.
"""

from __future__ import annotations

import errno
import socket
import struct
import time
from typing import TYPE_CHECKING, Any

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ParseException

if TYPE_CHECKING:
    from collections.abc import Iterator

    from _typeshed import ReadableBuffer

# A phone that changes cells is silent for some seconds, and comes back or never does.
IDLE_S = 10.0
# A head comes in one or two packets.
HEAD_S = 10.0
# A photo over a slow line; beyond that, the least that a mobile connection has.
BODY_S = 60.0
LEAST_BYTES_S = 32 * 1024
# A client that does not take its answer for so long will not.
SEND_S = 30.0
_MOST_HELD = 64 * 1024
# gunicorn needs 1.5 us for a chunk, however small. Clients that send a file in chunks
# send kilobytes in each.
_FREE_CHUNKS = 10_000
_LEAST_CHUNK = 64


class TooSlow(ParseException):  # type: ignore[misc] # gunicorn has no types
    """The client sends too slowly, or has stopped."""

    def __str__(self) -> str:
        """Return the words for the log."""
        return "the client sends too slowly"


class SmallChunks(ParseException):  # type: ignore[misc] # gunicorn has no types
    """The body comes in far too many chunks."""

    def __str__(self) -> str:
        """Return the words for the client."""
        return "its chunks are too small"


class PacedSocket(socket.socket):
    """A connection that gives up on a client that is too slow.

    The limits hold in blocking mode, in which requests are read; with a timeout of its
    own, as when gunicorn drains a connection, a call keeps to that one. For one thread
    at a time.
    """

    _began = 0.0
    _free_s = HEAD_S
    _received = 0
    _held: bytearray | None = None

    @classmethod
    def of(cls, plain: socket.socket) -> PacedSocket:
        """Take a connection over; the given object is detached from it."""
        paced = cls(plain.family, plain.type, plain.proto, plain.detach())
        # The kernel's own timeouts: Python's would poll before each read.
        paced.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(IDLE_S))
        paced.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(SEND_S))
        paced.begin()
        return paced

    def begin(self, free_s: float = HEAD_S) -> None:
        """Begin to count: a head, or with ``BODY_S`` a body, starts to be read.

        Args:
            free_s: seconds that it may take; longer only at ``LEAST_BYTES_S``.
        """
        self._began = time.monotonic()
        self._free_s = free_s
        self._received = 0

    def recv(self, bufsize: int, flags: int = 0, /) -> bytes:
        """Read the bytes that are there.

        Raises:
            TooSlow: no bytes came for ``IDLE_S``, or too few in all.
        """
        if flags or self.gettimeout() is not None:
            return super().recv(bufsize, flags)
        try:
            data = super().recv(bufsize)
        except BlockingIOError:
            raise TooSlow from None
        self._received += len(data)
        allowed_s = self._free_s + self._received / LEAST_BYTES_S
        if data and time.monotonic() - self._began > allowed_s:
            raise TooSlow
        return data

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


def pace_body(request: Any, connection: Any) -> None:
    """Begin to count a body, once gunicorn has read the request's head.

    Args:
        request: gunicorn's; its chunks are counted.
        connection: the socket.
    """
    if isinstance(connection, PacedSocket):
        connection.begin(BODY_S)
    reader = request.body.reader
    if isinstance(reader, ChunkedReader) and reader.parser is not None:
        reader.parser = _count_chunks(reader.parser)


def _count_chunks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    total = 0
    for number, piece in enumerate(pieces):
        total += len(piece)
        if number > _FREE_CHUNKS and total < number * _LEAST_CHUNK:
            raise SmallChunks
        yield piece
