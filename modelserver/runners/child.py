"""The entry of a model's own process: ``python -m modelserver.runners.child``.

Started by ``ProcessRunner`` with two inherited descriptors: a socket for messages and
the arena that images lie in. It loads one model, answers with ``Facts`` or
``LoadError``, then runs what it is told until the socket's other end is gone.

It ignores SIGINT and SIGTERM, which a terminal or a service manager sends to a whole
group: the front decides when a runner ends. It obeys the socket at once, also during a
load or a run, because the thread that watches it ends the process from outside both.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import threading
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, cast

import msgspec

from modelserver import logs
from modelserver.errors import ModelError, OutOfMemory, RequestError
from modelserver.runners.frames import attach
from modelserver.runners.inline import facts, open_session, timed
from modelserver.runners.protocol import (
    Array,
    Job,
    LoadError,
    Place,
    Ran,
    Reply,
    Run,
    RunError,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from modelserver.sessions import ModelSession
    from modelserver.settings import LogFormat


class Child:
    """One model behind a socket.

    Args:
        connection: messages in and out.
        arena: uint8 [bytes], the memory that images lie in.
    """

    def __init__(self, connection: Connection, arena: NDArray[np.uint8]) -> None:
        self._connection = connection
        self._arena = arena
        self._receiving = threading.Lock()
        self._sending = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(Run)

    def send(self, reply: Reply) -> None:
        """Send one message. Thread-safe."""
        data = msgspec.msgpack.encode(reply)
        with self._sending:
            self._connection.send_bytes(data)

    def load(self) -> ModelSession | None:
        """Receive the job, load it and tell how it went."""
        job = msgspec.msgpack.decode(self._connection.recv_bytes(), type=Job)
        try:
            session = open_session(job)
        except ModelError as error:
            self.send(LoadError(reason=str(error)))
            return None
        self.send(facts(session))
        return session

    def work(self, session: ModelSession) -> None:
        """Take runs from the socket, one at a time, until it closes.

        Each slot's thread does this. Whoever holds the lock waits for a message and
        then runs it itself, so a run changes no thread between socket and session.
        """
        while True:
            try:
                with self._receiving:
                    data = self._connection.recv_bytes()
                self.send(self.run(session, self._decoder.decode(data)))
            except (EOFError, OSError):
                return

    def run(self, session: ModelSession, message: Run) -> Reply:
        """Run a graph on the images that a message names."""
        try:
            answers = timed(session, [self._frame(place) for place in message.places])
        except RequestError as error:
            return RunError(
                number=message.number,
                reason=str(error.__cause__ or error),
                out_of_memory=isinstance(error, OutOfMemory),
            )
        packed = [
            {role: Array.pack(array) for role, array in one.outputs.items()}
            for one in answers
        ]
        return Ran(number=message.number, outputs=packed, run_ms=answers[0].run_ms)

    def _frame(self, place: Place) -> NDArray[np.uint8]:
        height, width, channels = place.shape
        end = place.offset + height * width * channels
        return self._arena[place.offset : end].reshape(place.shape)


def end_with(descriptor: int) -> None:
    """End this process as soon as the socket's other end is closed. Blocks."""
    poll = select.poll()
    poll.register(descriptor, select.POLLRDHUP)
    poll.poll()
    os._exit(0)


def main(socket_fd: int, arena_fd: int, log_format: LogFormat) -> None:
    """Serve one model until the front closes the socket."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(socket_fd,), daemon=True).start()
    logs.configure(log_format)
    # Whatever a graph or TensorFlow prints must not look like the front's own lines.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    child = Child(Connection(socket_fd), attach(arena_fd))
    session = child.load()
    if session is None:
        return
    # TensorFlow's half a million objects stay: the collector need not look at them.
    gc.freeze()
    threads = [
        threading.Thread(target=child.work, args=(session,), name=f"slot-{number}")
        for number in range(session.slots)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), cast("LogFormat", sys.argv[3]))
