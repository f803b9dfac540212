"""Messages over a socket between the front and a runner: a length, then the bytes.

A reader takes as much as there is in one system call: head and message, and often the
next message too. Each call less is one wait for the interpreter's lock less.
"""

from __future__ import annotations

import select
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket

# Of one message, if its reader knows no less: a length that a broken process made up
# must not be reserved in memory.
MAX_BYTES = 256 << 20
_HEAD = struct.Struct("!I")
_READ_BYTES = 64 * 1024


class Channel:
    """One end of a socket pair. One thread at a time may send, and one receive.

    Args:
        connection: a connected stream socket in blocking mode; owned from here on.

    Attributes:
        limit: bytes that a message to be received may have.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.limit = MAX_BYTES
        self._socket = connection
        self._buffer = bytearray()

    def send(self, data: bytes) -> None:
        """Send one message.

        Raises:
            OSError: the other end is gone.
        """
        self._socket.sendall(_HEAD.pack(len(data)) + data)

    def receive(self) -> bytes:
        """Wait for a message.

        Raises:
            EOFError, OSError: the other end is gone.
            ValueError: the message is malformed or too long.
        """
        self._fill(_HEAD.size)
        (size,) = _HEAD.unpack_from(self._buffer)
        if size > self.limit:
            raise ValueError(f"a message of {size} bytes")
        end = _HEAD.size + size
        self._fill(end)
        message = bytes(memoryview(self._buffer)[_HEAD.size : end])
        del self._buffer[:end]
        return message

    def _fill(self, size: int) -> None:
        """Read until the buffer holds ``size`` bytes."""
        while len(self._buffer) < size:
            missing = size - len(self._buffer)
            data = self._socket.recv(max(_READ_BYTES, min(missing, 1 << 20)))
            if not data:
                raise EOFError
            self._buffer += data

    def has_more(self) -> bool:
        """Return whether some of a message has arrived already.

        Raises:
            ValueError: the socket is closed.
        """
        if self._buffer:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close this end. Idempotent."""
        self._socket.close()
