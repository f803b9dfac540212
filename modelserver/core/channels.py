"""Messages over a stream socket between the engine and a runner.

A head with the numbers of bytes and of descriptors, then the bytes. A reader takes as
much as there is in one system call: head and message, and often the next message too.
"""

from __future__ import annotations

import array
import contextlib
import os
import select
import socket
import struct
from typing import TYPE_CHECKING

from modelserver.core.packets import pack_rights, unpack_rights

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

# Of one message, if its reader knows no less: a length that a broken process made up
# must not be reserved in memory.
MAX_BYTES = 256 << 20
_HEAD = struct.Struct("!IB")
_READ_BYTES, _READ_MOST = 64 * 1024, 1 << 20
# Plain numbers: to combine flags of ``socket`` costs microseconds each time.
_FLAGS = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_CUT = int(socket.MSG_CTRUNC)


class Channel:
    """One end of a socket pair. One thread at a time may send, and one receive.

    Args:
        connection: a connected stream socket; owned from here on. ``receive`` is for
            one that blocks, ``read`` for one that does not.
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
        # Bytes that the buffer lacks of a whole message, with those it has.
        self._wanted = _HEAD.size
        self._descriptors: list[int] = []

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message, with copies of descriptors.

        Raises:
            BlockingIOError: there is no room for all of it, and the socket does not
                block: no message can follow.
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
        while (message := self._take()) is None:
            self._fill()
        return message

    def read(self) -> Iterator[bytes]:
        """Read once from a socket that does not block; yield the messages it completes.

        Raises:
            BlockingIOError: there is nothing.
            EOFError, OSError, ValueError: as :meth:`receive`.
        """
        self._fill()
        while (message := self._take()) is not None:
            yield message[0]

    def _take(self) -> tuple[bytes, list[int]] | None:
        """Take the next message off the buffer, if it is whole."""
        self._wanted = _HEAD.size
        if len(self._buffer) < self._wanted:
            return None
        size, count = _HEAD.unpack_from(self._buffer)
        if size > self.limit or count > self._takes:
            raise ValueError(f"a message of {size} bytes and {count} descriptors")
        end = self._wanted = _HEAD.size + size
        if len(self._buffer) < end:
            return None
        if count > len(self._descriptors):
            raise ValueError("a message without its descriptors")
        message = bytes(memoryview(self._buffer)[_HEAD.size : end])
        del self._buffer[:end]
        descriptors = self._descriptors[:count]
        del self._descriptors[:count]
        return message, descriptors

    def _fill(self) -> None:
        """Read what there is into the buffer, in one system call."""
        missing = self._wanted - len(self._buffer)
        data = self._read(max(_READ_BYTES, min(missing, _READ_MOST)))
        if not data:
            raise EOFError
        self._buffer += data

    def _read(self, most: int) -> bytes:
        """Read bytes; descriptors wait for the message that claims them."""
        if not self._takes:
            return self._socket.recv(most)
        data, control, flags, _ = self._socket.recvmsg(most, self._ancillary, _FLAGS)
        if control:
            self._descriptors += unpack_rights(control)
        if flags & _CUT:
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

    def never_block(self) -> None:
        """Read and send without waiting from now on."""
        self._socket.settimeout(0)

    def hang_up(self) -> None:
        """Tell the other end, and whoever waits at this one, that this is all."""
        with contextlib.suppress(OSError):  # it is gone already
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close this end, with all descriptors that no message claimed. Idempotent."""
        self._drop_descriptors()
        self._socket.close()

    def _drop_descriptors(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())
