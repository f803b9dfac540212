"""The way to an engine in a process of its own, over a socket.

A request's own thread sends its message; one thread a door reads the answers, looks
after the clients of requests that wait, and hands the door's counts over. No message is
sent twice: if the engine dies, what was with it is refused.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import msgspec

from modelserver.core.answer_counts import AnswerCounts
from modelserver.core.errors import (
    ModelNotReady,
    Overloaded,
    RequestError,
    RunnerDied,
)
from modelserver.core.messages.requests import Ask, Gone, Hello, ToDoor, Welcome
from modelserver.core.packets import PacketSocket
from modelserver.core.refusals import Reader
from modelserver.web.link import Link

if TYPE_CHECKING:
    from modelserver.core.messages.requests import ToEngine

log = logging.getLogger(__name__)

# How long a request waits for an engine that is away.
_AWAY_S = 1.0
# How often clients are looked at, whether they are still there, and counts handed over:
# what was counted since is lost with a door that is killed.
_LOOK_S = 0.1
# How long a socket that nobody listens on is left alone.
_AGAIN_S = 0.1
# At most so many requests with arriving uploads count as images to come: many slow
# clients must not look like many images.
_MOST_COMING = 16
# Answers to a sender whose receiver does not read.
_FULL = {errno.EAGAIN, errno.ETOOMANYREFS, errno.ENOBUFS}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ToDoor | Welcome).decode


class SocketLink(Link):
    """The way to an engine in another process. Thread-safe once started.

    Args:
        address: of the engine's socket.
        page: descriptor of the page of refusals; it may be closed afterwards.
        most: requests that may wait for the engine at a time.
    """

    def __init__(self, address: str, page: int, most: int | None = None) -> None:
        super().__init__()
        self.most = most
        self._address = address
        self._page = Reader(page)
        self._counts = AnswerCounts()
        # Where this door listens, for each engine that comes.
        self._hello = b""
        self._packets: PacketSocket | None = None
        # Held to send, to open and to close: a closed descriptor's number may be
        # another file's at once.
        self._sending = threading.Condition()
        self._ending = threading.Event()
        self._wake, self._woken = socket.socketpair()
        self._reader: threading.Thread | None = None
        self._looked = 0.0

    def start(self) -> None:
        """Connect, as soon as there is an engine. Idempotent; returns at once."""
        if self._reader is None:
            self._reader = threading.Thread(
                target=self._run, name="engine-link", daemon=True
            )
            self._reader.start()

    def close(self) -> None:
        """Hand the last counts over and disconnect. Idempotent."""
        if self._ending.is_set():
            return
        self._ending.set()
        self._wake.close()
        if self._reader is not None:
            self._reader.join()
        self._woken.close()
        with self._sending:
            self._page.close()

    def send(self, message: ToEngine, descriptor: int | None = None) -> None:
        """Send a message; of a file, the engine gets a descriptor to read it by.

        Raises:
            ModelNotReady: there is no engine, and none came within a second.
            Overloaded: it takes no messages at the moment, or this is closed.
        """
        if isinstance(message, Ask) and message.topic == "metrics":
            self._hand_counts_over()
        data = _encode(message)
        if isinstance(message, Gone):
            self._send_if_there(data)
            return
        if descriptor is None:
            self._send(data, ())
            return
        name = f"/proc/self/fd/{descriptor}"
        readable = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._send(data, (readable,))
        finally:
            os.close(readable)

    def _send(self, data: bytes, descriptors: tuple[int, ...]) -> None:
        with self._sending:
            for _ in range(2):
                packets = self._await_engine()
                try:
                    packets.send(data, descriptors)
                except OSError as error:
                    if error.errno in _FULL:
                        what = "The server has too many requests at once"
                        raise Overloaded(1.0, what) from None
                    # Nobody has it, and nobody will: the next engine may be sent it.
                    self._packets = None
                else:
                    return
            raise self._away()

    def _await_engine(self) -> PacketSocket:
        """Return what leads to an engine that lives, with the lock held.

        Raises:
            ModelNotReady: there is none, and none came within a second.
            Overloaded: this is closed.
        """
        until = 0.0
        while (packets := self._living()) is None:
            now = time.monotonic()
            until = until or now + _AWAY_S
            if now >= until:
                raise self._away()
            # A new engine is told; one that hangs only shows that it lives again.
            self._sending.wait(min(until - now, _AGAIN_S))
        return packets

    def _living(self) -> PacketSocket | None:
        """Return what leads to an engine that lives, if there is one.

        Raises:
            Overloaded: this is closed.
        """
        if self._ending.is_set():
            raise Overloaded(1.0, "The server is closing")
        return self._packets if self._page.age_s <= _AWAY_S else None

    def _away(self) -> ModelNotReady:
        return ModelNotReady("", "restarting", self._retry_after_s())

    def _retry_after_s(self) -> float:
        """Return how long an engine takes until its models serve, at least 1 s."""
        return max(1.0, self._page.load_s)

    def greet(self, address: Any) -> None:
        """Tell the engine where this door listens, now or once it is there."""
        self._hello = _encode(Hello.of(address))
        self._send_if_there(self._hello)

    def refusal(self, handled: int) -> RequestError | None:
        """Read it from the page."""
        if self._ending.is_set():
            return None
        coming = handled - len(self._waiting)
        return self._page.refusal(max(0, min(coming, _MOST_COMING)))

    def count(self, route: str, model: str, status: int, dialect: str = "") -> None:
        """Count an answer; the engine is told within a tenth of a second."""
        self._counts.count_answer(route, model, status, dialect)

    def count_refusal(self, reason: str) -> None:
        """Count a refusal; the engine is told within a tenth of a second."""
        self._counts.count_refusal(reason)

    def _hand_counts_over(self) -> None:
        """Send what was counted, unless the engine is away: then it is kept."""
        counts = self._counts.take()
        if counts is not None and not self._send_if_there(_encode(counts)):
            self._counts.put_back(counts)

    def _send_if_there(self, data: bytes) -> bool:
        """Send a message to an engine that is there and takes it; else return false."""
        with self._sending:
            if self._packets is None:
                return False
            try:
                self._packets.send(data)
            except OSError:
                return False
            return True

    def _run(self) -> None:
        """Connect, read answers, and connect again, until this is closed."""
        while not self._ending.is_set():
            try:
                packets = self._connect()
            except OSError:  # nobody listens, or too many wait
                self._ending.wait(_AGAIN_S)
                continue
            try:
                self._serve(packets)
            except (EOFError, OSError):
                pass
            except (ValueError, msgspec.MsgspecError):
                log.exception("the engine sent what is no message")
                self._ending.wait(_AGAIN_S)
            finally:
                self._lose(packets)

    def _connect(self) -> PacketSocket:
        """Connect to the socket, which an engine may have yet to look at.

        Raises:
            OSError: it cannot be connected to.
        """
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.setblocking(False)  # noqa: FBT003 - has no other way
            connection.connect(self._address)
        except BaseException:
            connection.close()
            raise
        return PacketSocket(connection)

    def _serve(self, packets: PacketSocket) -> None:
        """Read answers until the engine has gone, or this is closed.

        Raises:
            EOFError, OSError: the engine has gone.
            ValueError, MsgspecError: it sent something else.
        """
        poll = select.poll()
        for descriptor in (packets.fileno(), self._woken.fileno()):
            poll.register(descriptor, select.POLLIN)
        while not self._ending.is_set():
            poll.poll(_LOOK_S * 1000)
            self._receive(packets)
            self._look_around()
        self._hand_counts_over()

    def _receive(self, packets: PacketSocket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                data, descriptors = packets.receive()
                for descriptor in descriptors:
                    os.close(descriptor)
                answer = _decode(data)
                if isinstance(answer, Welcome):
                    with self._sending:
                        self._packets = packets
                        self._sending.notify_all()
                    if self._hello:
                        self._send_if_there(self._hello)
                else:
                    self.deliver(answer)

    def _look_around(self) -> None:
        """See whether clients have gone, and hand counts over, if it is time."""
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._looked = now
            self._hand_counts_over()
            if self._waiting:
                self.look_for_gone()

    def _lose(self, packets: PacketSocket) -> None:
        """Refuse all that was with an engine that has gone."""
        with self._sending:
            self._packets = None
            packets.close()
        self.fail(RunnerDied(self._retry_after_s(), "engine"))
