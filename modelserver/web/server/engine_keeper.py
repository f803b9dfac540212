"""The engine's process as gunicorn's arbiter keeps it: started, brought back, ended.

What must outlive an engine is the arbiter's, made once: the socket that doors connect
to, and the page of memory from which they see refusals. Neither has a name in any
folder, so nothing is left behind however anything ends. A socket between arbiter and
engine has three uses: the engine says once that it is ready, the arbiter asks it to
look at the model folder, and the arbiter's end of it, once closed, tells the engine to
go as soon as no door is connected.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import deque
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn.errors import HaltServer

import modelserver
from modelserver.core.errors import START_FAILED
from modelserver.core.messages.control import READY, RESCAN
from modelserver.core.refusals import Reader, make_page

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gunicorn.arbiter import Arbiter

log = logging.getLogger(__name__)

ENGINE_PROCESS = True
"""Whether models are served from a process of their own, behind any number of doors."""

MODULE = "modelserver.engine.process"
"""What the engine's process runs."""

# Connections that wait for an engine, which may be away for as long as it starts.
_BACKLOG = 128
# So many deaths within this time, and the next engine waits: 1, 2, 4 ... 10 s.
_DEATHS, _WITHIN_S, _MOST_S = 3, 60.0, 10.0
# An engine hangs that shows no life for so long, nor for so long after that was seen:
# the whole machine may have been stopped meanwhile.
_SILENT_S, _SURE_S = 10.0, 3.0
# What the engine is given to close its models in once the doors have gone.
_CLOSE_S = 5.0
_MESSAGE_BYTES = 64
# In memory, and there in every container; else wherever temporary files go.
_MEMORY = "/dev/shm"  # noqa: S108 - a private folder is made in it


class Backoff:
    """Says when a process that died is started again.

    At once, unless it died three times within a minute: then after 1, 2, 4 ... 10 s.

    Args:
        clock: seconds; never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deaths: deque[float] = deque(maxlen=_DEATHS)
        self._delay_s = 0.0

    def count_death(self) -> float:
        """Count a death, and return the seconds until the next start."""
        now = self._clock()
        self._deaths.append(now)
        often = len(self._deaths) == _DEATHS and now - self._deaths[0] < _WITHIN_S
        self._delay_s = min(max(1.0, 2 * self._delay_s), _MOST_S) if often else 0.0
        return self._delay_s


class EngineKeeper:
    """Starts the engine, brings it back, and has it go last. For the arbiter's thread.

    Args:
        tasks: those that the engine serves: kinds, and modules that register those
            from outside, as ``served_tasks.describe`` gives them.
        environ: the engine's variables.
        owner: user and group that it runs as; this process's own if not given.
        clock: seconds; never goes back.

    Attributes:
        address: what a door connects to; for processes forked from this one.
        page: the descriptor of the page of refusals, for the same.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        environ: Mapping[str, str],
        owner: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._tasks = tuple(tasks)
        self._environ = make_environ(environ)
        self._owner = owner
        self._clock = clock
        self._backoff = Backoff(clock)
        self._due = clock()
        self._ending = False
        self._was_ready = False
        # Of the present engine: whether it takes doors, and since when it was silent.
        self._takes_doors = False
        self._silent_at: float | None = None
        self._pulse: Reader | None = None
        self._engine: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._listener: socket.socket | None = None
        self._connectable = -1
        self.page = -1

    @property
    def address(self) -> str:
        """The name that the socket has in this process and in those forked from it."""
        return f"/proc/self/fd/{self._connectable}"

    def open(self) -> None:
        """Make the socket and the page.

        Raises:
            OSError, AttributeError: this system lacks one of them; nothing is open.
        """
        try:
            self._listener, self._connectable = _listen(self._owner)
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
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - has no other way
        user, group = self._owner or (None, None)
        descriptors = (self._listener.fileno(), self.page, theirs.fileno())
        arguments = [*map(str, descriptors), *self._tasks]
        with theirs:
            try:
                self._engine = subprocess.Popen(
                    [sys.executable, "-m", MODULE, *arguments],
                    stdin=subprocess.DEVNULL,
                    pass_fds=descriptors,
                    env=self._environ,
                    # Ctrl-C is for the processes of the terminal's own session.
                    start_new_session=True,
                    user=user,
                    group=group,
                )
            except BaseException:
                ours.close()
                raise
        self._control = ours

    def look(self) -> None:
        """See whether the engine lives, and start it again if it is time; cheap.

        Raises:
            HaltServer: it could not start, and said why.
        """
        if self._ending:
            return
        if self._engine is not None:
            self._take_messages()
            code = self._engine.poll()
            if code is None:
                self._kill_if_it_hangs(self._engine)
                return
            self._note_death(self._engine.pid, code)
        if self._clock() >= self._due:
            self._start_again()

    def _kill_if_it_hangs(self, engine: subprocess.Popen[bytes]) -> None:
        if not self._takes_doors or self._pulse is None:
            return
        now = self._clock()
        if self._pulse.age_s < _SILENT_S:
            self._silent_at = None
        elif self._silent_at is None:
            self._silent_at = now
        elif now - self._silent_at >= _SURE_S:
            log.error("the engine (process %d) hangs and is killed", engine.pid)
            self._takes_doors = False
            engine.kill()

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError as error:
            delay = self._plan()
            log.error(  # noqa: TRY400 - there is no more to tell
                "the engine cannot be started (%s); it is tried again in %g s",
                error.strerror,
                max(delay, 1.0),
            )

    def _note_death(self, pid: int, code: int) -> None:
        self._drop_engine()
        if code == START_FAILED and not self._was_ready:
            raise HaltServer("The engine could not start.", START_FAILED)
        delay = self._plan()
        log.error(
            "the engine (process %d) ended by %s; it is started again %s",
            pid,
            _name_end(code),
            f"in {delay:g} s" if delay else "at once",
        )

    def _plan(self) -> float:
        delay = self._backoff.count_death()
        self._due = self._clock() + delay
        return delay

    def _drop_engine(self) -> None:
        self._engine = self._silent_at = None
        self._takes_doors = False
        if self._control is not None:
            self._control.close()
            self._control = None

    def _take_messages(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while self._control is not None:
                message = self._control.recv(_MESSAGE_BYTES)
                self._takes_doors |= message == READY
                self._was_ready |= message == READY
                if not message:
                    return

    def rescan(self) -> None:
        """Have the engine look at the model folder; one that starts does so anyway."""
        with contextlib.suppress(OSError):  # it is away, or full of such wishes
            if self._control is not None:
                self._control.send(RESCAN)

    def leave(self) -> None:
        """Close what only the arbiter needs; for a door, right after it was forked."""
        if self._engine is not None:
            # The door is not its parent, and must neither wait for it nor warn of it.
            self._engine.returncode = 0
        self._drop_engine()
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    def end(self) -> None:
        """Never start the engine again from now on."""
        self._ending = True

    def close(self) -> None:
        """End the engine, which waits until no door is connected. Idempotent."""
        self.end()
        engine = self._engine
        self._drop_engine()
        if engine is not None:
            try:
                engine.wait(_CLOSE_S)
            except subprocess.TimeoutExpired:
                log.warning("the engine does not end and is killed")
                engine.kill()
                engine.wait()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._pulse is not None:
            self._pulse.close()
            self._pulse = None
        for descriptor in (self._connectable, self.page):
            if descriptor >= 0:
                os.close(descriptor)
        self._connectable = self.page = -1

    def attach(self, arbiter: Arbiter) -> None:
        """Have gunicorn's arbiter look after the engine, next to its workers.

        Its loop, its end and its reload call these methods: at each signal, ``SIGCHLD``
        among them, and else once a second. The engine is looked at first, because
        ``reap_workers`` takes the exit code of every child.
        """
        for name in ("reap_workers", "manage_workers"):
            setattr(arbiter, name, self._before(getattr(arbiter, name)))
        arbiter.handle_hup = partial(self._handle_hup, arbiter)
        arbiter.stop = self._around(arbiter.stop)

    def _before(self, method: Callable[[], None]) -> Callable[[], None]:
        @wraps(method)
        def look_first() -> None:
            self.look()
            try:
                method()
            except HaltServer:
                # Several workers fail to start for one reason, and the first of them
                # has had the server end.
                if not self._ending:
                    raise

        return look_first

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


def make_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of the engine's process: this package can be imported."""
    package = str(Path(modelserver.__file__).parent.parent)
    path = [package, *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(path)}


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


def _name_end(code: int) -> str:
    """Name an exit code or a signal as ``Popen.returncode`` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
