"""The doors that are connected to the engine's process, and their messages.

All of it is in the loop's thread. A door that breaks the rules loses its connection,
and nothing else happens: what it had under way is given back, as if it had ended.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Protocol

import msgspec

from modelserver.core.messages.requests import ToDoor, ToEngine, Welcome
from modelserver.core.packets import PacketSocket

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Sequence

    from modelserver.engine.loop import Loop

log = logging.getLogger(__name__)

# Messages that are taken from one door before another has its turn.
_TURN = 32
# Connections that are taken before a door has its turn.
_ACCEPTS = 16
# What may wait for a door that does not read, and for how long.
_MOST_BYTES = 64 << 20
_MOST_MESSAGES = 10_000
_STUCK_S = 10.0
_NO_MORE_FILES = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_BREATH_S = 0.1
# struct ucred of sys/socket.h: process, user, group.
_CREDENTIALS = struct.Struct("3i")

_decode = msgspec.msgpack.Decoder(ToEngine).decode
_encode = msgspec.msgpack.Encoder().encode


class Session(Protocol):
    """What the engine keeps for one door; see ``engine.DoorSession``."""

    def take(self, message: ToEngine, descriptors: Sequence[int], /) -> None:
        """Take a message, and descriptors, which are the session's from then on.

        Raises:
            TypeError, ValueError: the message makes no sense.
        """

    def close(self) -> None:
        """Give back all that the door has under way."""


class Doors:
    """Accepts doors and keeps a session for each.

    Args:
        loop: in whose thread all this is.
        listener: a listening socket of type ``SOCK_SEQPACKET``; owned from here on.
        open_session: makes a session, given what sends its door a message.
        changed: called when messages have come or gone.
    """

    def __init__(
        self,
        loop: Loop,
        listener: socket.socket,
        open_session: Callable[[Callable[[ToDoor], None]], Session],
        changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.loop = loop
        self.changed = changed
        self._listener = listener
        self._open_session = open_session
        self._doors: set[_Door] = set()
        self._when_empty: Callable[[], None] | None = None

    def open(self) -> None:
        """Accept doors from now on."""
        self._listener.setblocking(False)  # noqa: FBT003 - has no other way
        self.loop.watch(self._listener.fileno(), self._accept)

    def close(self) -> None:
        """End all connections; accept no more. Idempotent."""
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        for door in list(self._doors):
            door.close()

    @property
    def pids(self) -> list[int]:
        """The process of each connected door; from any thread."""
        return [door.pid for door in list(self._doors)]

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Call a function once no door is connected, which may be now."""
        self._when_empty = callback
        self._look_if_empty()

    def forget(self, door: _Door) -> None:
        """Count a door no more, which has closed itself."""
        self._doors.discard(door)
        self._look_if_empty()

    def _look_if_empty(self) -> None:
        if not self._doors and self._when_empty is not None:
            callback, self._when_empty = self._when_empty, None
            callback()

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                connection = self._listener.accept()[0]
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _NO_MORE_FILES:
                    self._rest()
                return
            self._take(connection)

    def _rest(self) -> None:
        """Accept nobody for a moment: the listener would be readable all the time."""
        log.warning("There are no file descriptors left for doors.")
        self.loop.unwatch(self._listener.fileno())
        self.loop.after(_BREATH_S, self.open)

    def _take(self, connection: socket.socket) -> None:
        connection.setblocking(False)  # noqa: FBT003 - has no other way
        pid, user, _ = _CREDENTIALS.unpack(
            connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
            )
        )
        if user != os.geteuid():
            log.warning("A process of user %d tried to connect as a door.", user)
            connection.close()
            return
        door = _Door(self, PacketSocket(connection), pid)
        self._doors.add(door)
        door.open(self._open_session)


class _Door:
    """One connected door."""

    def __init__(self, doors: Doors, packets: PacketSocket, pid: int) -> None:
        self.pid = pid
        self._doors = doors
        self._loop = doors.loop
        self._packets = packets
        self._session: Session | None = None
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._stuck: asyncio.TimerHandle | None = None
        self._open = True
        self._doomed = False

    def open(self, open_session: Callable[[Callable[[ToDoor], None]], Session]) -> None:
        """Make its session, and take messages from now on."""
        self._session = open_session(self.send)
        self._loop.watch(self._packets.fileno(), self._receive)
        self.send(Welcome())

    def close(self) -> None:
        """Close the connection, and give back what the door had. Idempotent."""
        if not self._open:
            return
        self._open = False
        self._loop.unwatch(self._packets.fileno())
        self._stop_waiting()
        self._outbox.clear()
        self._packets.close()
        self._doors.changed()
        self._doors.forget(self)
        if self._session is not None:
            self._session.close()

    def _receive(self) -> None:
        """Take messages; not all of a flood at once, as others wait, too."""
        self._doors.changed()
        for _ in range(_TURN):
            try:
                data, descriptors = self._packets.receive()
            except BlockingIOError:
                return
            except (EOFError, OSError):
                self.close()
                return
            except ValueError as error:
                self._drop("a malformed message", error)
                return
            if not self._take(data, descriptors) or not self._open:
                return

    def _take(self, data: bytes, descriptors: list[int]) -> bool:
        try:
            message = _decode(data)
        except msgspec.MsgspecError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            self._drop("a malformed message", error)
            return False
        if self._session is None:
            return False
        try:
            self._session.take(message, descriptors)
        except (TypeError, ValueError) as error:
            self._drop("a message that makes no sense", error)
            return False
        return True

    def _drop(self, why: str, error: Exception | None = None) -> None:
        if not self._open:
            return
        log.warning("A door (process %d) is cut off: %s.", self.pid, why)
        log.debug("What it did wrong: %s", error)
        self.close()

    def send(self, message: ToDoor | Welcome) -> None:
        """Send the door a message, at once or as soon as it reads."""
        if not self._loop.inside:
            self._loop.call(self.send, message)
            return
        if not self._open or self._doomed:
            return
        self._doors.changed()
        data = _encode(message)
        if not self._outbox:
            try:
                self._packets.send(data)
            except BlockingIOError:
                self._wait_for_room()
            except OSError:
                self._end_soon()
                return
            else:
                return
        self._outbox.append(data)
        self._outbox_bytes += len(data)
        if self._outbox_bytes > _MOST_BYTES or len(self._outbox) > _MOST_MESSAGES:
            self._end_soon("it does not read")

    def _end_soon(self, why: str = "") -> None:
        """End later: the session that sends is in the middle of something."""
        self._doomed = True
        self._loop.call(self._drop, why) if why else self._loop.call(self.close)

    def _wait_for_room(self) -> None:
        self._loop.watch_room(self._packets.fileno(), self._write)
        self._time_out()

    def _time_out(self) -> None:
        if self._stuck is not None:
            self._stuck.cancel()
        self._stuck = self._loop.after(_STUCK_S, self._drop, "it does not read")

    def _stop_waiting(self) -> None:
        self._loop.unwatch_room(self._packets.fileno())
        if self._stuck is not None:
            self._stuck.cancel()
            self._stuck = None

    def _write(self) -> None:
        """Send what waits in the outbox, as far as there is room."""
        try:
            while self._outbox:
                self._packets.send(self._outbox[0])
                self._outbox_bytes -= len(self._outbox.popleft())
                self._time_out()
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        self._stop_waiting()
