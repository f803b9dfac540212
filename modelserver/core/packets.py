"""Messages with descriptors between two processes, over a ``SOCK_SEQPACKET`` socket.

The socket keeps messages apart, so one is one system call. Its first byte is the
version, the second tells whether the rest is the message or, as it is a large one, in
the memory behind the first descriptor.
"""

from __future__ import annotations

import array
import os
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = 1
LIMIT = 64 * 1024
"""Bytes of a message that travels in the socket; a larger one goes by a memfd."""
MAX_BYTES = 256 << 20
"""Of one message: a length that a broken process made up must not be reserved."""

_HERE, _BEHIND = 0, 1
_HEADS = {place: bytes((VERSION, place)) for place in (_HERE, _BEHIND)}
_HEAD_BYTES = 2
_MOST_DESCRIPTORS = 4
_ANCILLARY = socket.CMSG_SPACE(_MOST_DESCRIPTORS * array.array("i").itemsize)
# Plain numbers: to combine flags of ``socket`` costs microseconds each time.
_FLAGS = int(getattr(socket, "MSG_CMSG_CLOEXEC", 0))
_CUT = int(socket.MSG_CTRUNC | socket.MSG_TRUNC)
_NO_SIGNAL = int(socket.MSG_NOSIGNAL)


class PacketSocket:
    """One end. One thread at a time may send, and one receive.

    Args:
        connection: connected, of type ``SOCK_SEQPACKET``; owned from here on.
        limit: bytes that a message to be received may have.
    """

    def __init__(self, connection: socket.socket, limit: int = MAX_BYTES) -> None:
        self.limit = limit
        self.socket = connection

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message.

        Args:
            descriptors: at most three, which the other end gets copies of.

        Raises:
            BlockingIOError: there is no room, and the socket does not block.
            OSError: the other end is gone.
        """
        if len(data) <= LIMIT:
            self._send(_HEADS[_HERE] + data, descriptors)
            return
        memory = os.memfd_create("modelserver-message", os.MFD_CLOEXEC)
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(memory, rest) :]
            self._send(_HEADS[_BEHIND], (memory, *descriptors))
        finally:
            os.close(memory)

    def _send(self, data: bytes, descriptors: Sequence[int]) -> None:
        if descriptors:
            self.socket.sendmsg([data], pack_rights(descriptors), _NO_SIGNAL)
        else:
            self.socket.send(data, _NO_SIGNAL)

    def receive(self) -> tuple[bytes, list[int]]:
        """Wait for a message.

        Returns:
            It, and its descriptors, which the caller closes.

        Raises:
            EOFError, OSError: the other end is gone.
            BlockingIOError: there is none, and the socket does not block.
            ValueError: it is malformed, of another version or too long; its
                descriptors are closed.
        """
        data, control, flags, _ = self.socket.recvmsg(
            _HEAD_BYTES + LIMIT, _ANCILLARY, _FLAGS
        )
        descriptors = unpack_rights(control) if control else []
        try:
            return self._content(data, flags, descriptors), descriptors
        except BaseException:
            for descriptor in descriptors:
                os.close(descriptor)
            raise

    def _content(self, data: bytes, flags: int, descriptors: list[int]) -> bytes:
        """Return the message; takes the descriptor away that holds a large one."""
        if flags & _CUT:
            raise ValueError("a message that was cut")
        if not data:
            raise EOFError
        head = data[:_HEAD_BYTES]
        if head == _HEADS[_HERE]:
            return data[_HEAD_BYTES:]
        if head != _HEADS[_BEHIND] or not descriptors:
            raise ValueError(f"a message that begins with {head!r}")
        content = self._large(descriptors[0])
        os.close(descriptors.pop(0))
        return content

    def _large(self, memory: int) -> bytes:
        size = os.fstat(memory).st_size
        if size > self.limit:
            raise ValueError(f"a message of {size} bytes")
        # A copy: the sender could change what lies there.
        data = os.pread(memory, size, 0)
        if len(data) != size:
            raise ValueError("a message that was cut")
        return data

    def fileno(self) -> int:
        """Return the socket's descriptor, -1 once closed."""
        return self.socket.fileno()

    def close(self) -> None:
        """Close this end. Idempotent."""
        self.socket.close()


def pair() -> tuple[PacketSocket, PacketSocket]:
    """Return two connected ends."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    return PacketSocket(one), PacketSocket(other)


def pack_rights(descriptors: Sequence[int]) -> list[tuple[int, int, array.array[int]]]:
    """Return the control message that descriptors travel with."""
    return [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]


def unpack_rights(control: list[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors in a control message, which the caller closes."""
    found = array.array("i")
    for level, kind, data in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return list(found)
