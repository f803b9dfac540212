"""The engine's process as gunicorn's arbiter keeps it: started, brought back, ended.

What must outlive an engine is the arbiter's, made once: the socket that doors connect
to, and the page of memory from which they see refusals. Neither has a name in any
folder, so nothing is left behind however anything ends. By the socket between the two
the arbiter asks the engine to look at the model folder; once it is closed, the engine
goes as soon as no door is connected.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING

from modelserver.core.messages.control import RESCAN
from modelserver.core.refusals import Reader, make_page
from modelserver.web.server.process_keeper import ProcessKeeper

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gunicorn.arbiter import Arbiter

ENGINE_PROCESS = True
"""Whether models are served from a process of their own, behind any number of doors."""

MODULE = "modelserver.engine.process"
"""What the engine's process runs."""

# Connections that wait for an engine, which may be away for as long as it starts.
_BACKLOG = 128
# An engine hangs that shows no life for so long.
_SILENT_S = 10.0
# What the engine is given to close its models in once the doors have gone.
_CLOSE_S = 5.0
# In memory, and there in every container; else wherever temporary files go.
_MEMORY = "/dev/shm"  # noqa: S108 - a private folder is made in it


class EngineKeeper(ProcessKeeper):
    """Starts the engine, brings it back, and has it go last. For the arbiter's thread.

    Args:
        tasks: those that the engine serves: kinds, and modules that register those
            from outside, as ``served_tasks.describe`` gives them.
        environ: the engine's variables.
        owner: user and group that it runs as; this process's own if not given.
        clock: seconds; never goes back.

    Attributes:
        page: the descriptor of the page of refusals, for a door.
        connectable: the descriptor of what a door connects to.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        environ: Mapping[str, str],
        owner: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__("engine", environ, owner, clock)
        self._tasks = tuple(tasks)
        self._pulse: Reader | None = None
        self._listener: socket.socket | None = None
        self.connectable = -1
        self.page = -1

    @property
    def address(self) -> str:
        """The name that the socket has in this process and in those forked from it."""
        return f"/proc/self/fd/{self.connectable}"

    def open(self) -> None:
        """Make the socket and the page.

        Raises:
            OSError, AttributeError: this system lacks one of them; nothing is open.
        """
        try:
            self._listener, self.connectable = _listen(self._owner)
            self._try_to_connect()
            self.page = make_page()
            self._pulse = Reader(self.page)
        except BaseException:
            self.close()
            raise

    def _try_to_connect(self) -> None:
        """Connect as a door will.

        Raises:
            OSError: there is no ``/proc``, or it leads to no socket.
        """
        if self._listener is not None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as door:
                door.connect(self.address)
                self._listener.accept()[0].close()

    def start(self) -> None:
        """Start the engine; it says itself what it has to say.

        Raises:
            OSError: the system has no process for it.
        """
        if self._listener is None:
            raise ValueError("the keeper was not opened, or is closed")
        self._start(MODULE, (self._listener.fileno(), self.page), self._tasks)

    def _is_silent(self) -> bool:
        return self._pulse is not None and self._pulse.age_s >= _SILENT_S

    def rescan(self) -> None:
        """Have the engine look at the model folder; one that starts does so anyway."""
        with contextlib.suppress(OSError):  # it is away, or full of such wishes
            if self._control is not None:
                self._control.send(RESCAN)

    def leave(self) -> None:
        """Close what only the arbiter needs; for a door, right after it was forked."""
        super().leave()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def close(self, wait_s: float = _CLOSE_S) -> None:
        """End the engine, which waits until no door is connected. Idempotent."""
        super().close(wait_s)
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        for descriptor in (self.connectable, self.page):
            if descriptor >= 0:
                os.close(descriptor)
        self.connectable = self.page = -1

    def attach(self, arbiter: Arbiter) -> None:
        """Have gunicorn's arbiter look after the engine, and reload nothing else."""
        super().attach(arbiter)
        arbiter.handle_hup = partial(self._handle_hup, arbiter)

    def _around(self, stop: Callable[[bool], None]) -> Callable[[bool], None]:
        @wraps(stop)
        def stop_all(graceful: bool = True) -> None:  # noqa: FBT001, FBT002 - gunicorn's
            self.end()
            stop(graceful)
            self.close()

        return stop_all

    def _handle_hup(self, arbiter: Arbiter) -> None:
        """Pass SIGHUP on to the engine; no door and no model is replaced for it."""
        arbiter.log.info("SIGHUP: looking for new models; settings need a restart")
        self.rescan()


def _listen(owner: tuple[int, int] | None) -> tuple[socket.socket, int]:
    """Make a listening socket without a name.

    Args:
        owner: user and group that may connect; this process's own if not given.

    Returns:
        it, and a descriptor of its place in the file system, which is gone: what
        ``/proc/self/fd`` shows of it can be connected to.

    Raises:
        OSError: no folder takes a socket.
    """
    bases = [_MEMORY] if os.access(_MEMORY, os.W_OK | os.X_OK) else []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        folder = tempfile.mkdtemp(prefix="modelserver-", dir=next(iter(bases), None))
        connectable = _bind(listener, folder, owner)
        listener.listen(_BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener, connectable


def _bind(listener: socket.socket, folder: str, owner: tuple[int, int] | None) -> int:
    """Bind a socket in a private folder, and remove both names at once."""
    place = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A path by number: a folder's own may be longer than a socket's name may be.
        listener.bind(f"/proc/self/fd/{place}/engine")
        try:
            if owner is not None:
                os.chown("engine", *owner, dir_fd=place)
            return os.open("engine", os.O_PATH | os.O_CLOEXEC, dir_fd=place)
        finally:
            os.unlink("engine", dir_fd=place)
    finally:
        os.close(place)
        Path(folder).rmdir()
