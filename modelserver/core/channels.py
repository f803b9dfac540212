"""Messages over a stream socket between the engine and a runner.

A head with the numbers of bytes and of descriptors, then the bytes. A reader takes as
much as there is in one system call: head and message, and often the next message too.
"""

from __future__ import annotations

import array
import os
import select
import socket
import struct
from typing import TYPE_CHECKING

from modelserver.core.packets import pack_rights, unpack_rights

if TYPE_CHECKING:
    from collections.abc import Sequence

# Of one message, if its reader knows no less: a length that a broken process made up
# must not be reserved in memory.
MAX_BYTES = 256 << 20
_HEAD = struct.Struct("!IB")
_READ_BYTES = 64 * 1024
_FLAGS = getattr(socket, "MSG_CMSG_CLOEXEC", 0)


class Channel:
    """One end of a socket pair. One thread at a time may send, and one receive.

    Args:
        connection: a connected stream socket in blocking mode; owned from here on.
        takes: descriptors that one message to be received may bring. The kernel drops
            those that come to an end that takes none.

    Attributes:
        limit: bytes that a message to be received may have.
    """

    def __init__(self, connection: socket.socket, takes: int = 0) -> None:
        self.limit = MAX_BYTES
        self._socket = connection
        self._takes = takes
        self._ancillary = socket.CMSG_SPACE(takes * array.array("i").itemsize)
        self._buffer = bytearray()
        self._descriptors: list[int] = []

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message, with copies of descriptors.

        Raises:
            OSError: the other end is gone.
        """
        message = _HEAD.pack(len(data), len(descriptors)) + data
        if descriptors:
            # They come along with the first byte, so before their message is whole.
            sent = self._socket.sendmsg([message], pack_rights(descriptors))
            message = message[sent:]
        self._socket.sendall(message)

    def receive(self) -> tuple[bytes, list[int]]:
        """Wait for a message.

        Returns:
            It, and its descriptors, which the caller closes.

        Raises:
            EOFError, OSError: the other end is gone.
            ValueError: the message is malformed or too long.
        """
        self._fill(_HEAD.size)
        size, count = _HEAD.unpack_from(self._buffer)
        if size > self.limit or count > self._takes:
            raise ValueError(f"a message of {size} bytes and {count} descriptors")
        end = _HEAD.size + size
        self._fill(end)
        if count > len(self._descriptors):
            raise ValueError("a message without its descriptors")
        message = bytes(memoryview(self._buffer)[_HEAD.size : end])
        del self._buffer[:end]
        descriptors = self._descriptors[:count]
        del self._descriptors[:count]
        return message, descriptors

    def _fill(self, size: int) -> None:
        """Read until the buffer holds ``size`` bytes."""
        while len(self._buffer) < size:
            missing = size - len(self._buffer)
            data = self._read(max(_READ_BYTES, min(missing, 1 << 20)))
            if not data:
                raise EOFError
            self._buffer += data

    def _read(self, most: int) -> bytes:
        """Read what there is; descriptors wait for the message that claims them."""
        if not self._takes:
            return self._socket.recv(most)
        data, control, flags, _ = self._socket.recvmsg(most, self._ancillary, _FLAGS)
        if control:
            self._descriptors += unpack_rights(control)
        if flags & socket.MSG_CTRUNC:
            self._drop_descriptors()
            raise ValueError("a message whose descriptors were cut")
        return data

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
        """Close this end, with all descriptors that no message claimed. Idempotent."""
        self._drop_descriptors()
        self._socket.close()

    def _drop_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
