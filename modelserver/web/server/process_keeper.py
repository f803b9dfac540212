"""A process that gunicorn's arbiter keeps beside its workers: started and brought back.

A socket between the two has three uses: the process says that it is ready, the arbiter
may tell it things, and the arbiter's end of it, once closed, tells the process to go.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING

from gunicorn.errors import HaltServer

import modelserver
from modelserver.core.errors import START_FAILED
from modelserver.core.messages.control import READY

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gunicorn.arbiter import Arbiter

log = logging.getLogger(__name__)

# So many deaths within this time, and the next process waits: 1, 2, 4 ... 10 s.
_DEATHS, _WITHIN_S, _MOST_S = 3, 60.0, 10.0
_MESSAGE_BYTES = 64
# A process hangs that shows no life, nor for so long after that was seen: the whole
# machine may have been stopped meanwhile.
_SURE_S = 3.0


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


class ProcessKeeper:
    """Starts a process and brings it back. For the arbiter's thread.

    Args:
        name: what the log calls the process.
        environ: its variables.
        owner: user and group that it runs as; this process's own if not given.
        clock: seconds; never goes back.
    """

    def __init__(
        self,
        name: str,
        environ: Mapping[str, str],
        owner: tuple[int, int] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._name = name
        self._environ = make_environ(environ)
        self._owner = owner
        self._clock = clock
        self._backoff = Backoff(clock)
        self._due = clock()
        self._ending = False
        # Whether the present process is ready, and whether any ever was.
        self._is_ready = self._was_ready = False
        # When the present one was last heard, and since when it was silent.
        self._heard_at = clock()
        self._silent_at: float | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def start(self) -> None:
        """Start the process; it says itself what it has to say.

        Raises:
            OSError: the system has no process for it.
        """
        raise NotImplementedError

    def _start(
        self, module: str, descriptors: Sequence[int], words: Sequence[str]
    ) -> None:
        """Run a module in a fresh interpreter.

        Args:
            descriptors: that it inherits. Their numbers are its first arguments, and
                behind them is that of its end of the socket.
            words: its other arguments.

        Raises:
            OSError: the system has no process for it.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)  # noqa: FBT003 - has no other way
        user, group = self._owner or (None, None)
        given = (*descriptors, theirs.fileno())
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", module, *map(str, given), *words],
                    stdin=subprocess.DEVNULL,
                    pass_fds=given,
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
        """See whether the process lives, and start it again if it is time; cheap.

        Raises:
            HaltServer: it could not start, and said why.
        """
        if self._ending:
            return
        if self._process is not None:
            self._take_messages()
            code = self._process.poll()
            if code is None:
                self._kill_if_it_hangs(self._process)
                return
            self._note_death(self._process.pid, code)
        if self._clock() >= self._due:
            self._start_again()

    def _kill_if_it_hangs(self, process: subprocess.Popen[bytes]) -> None:
        now = self._clock()
        if not self._is_ready or not self._is_silent():
            self._silent_at = None
        elif self._silent_at is None:
            self._silent_at = now
        elif now - self._silent_at >= _SURE_S:
            log.error(
                "the %s (process %d) hangs and is killed", self._name, process.pid
            )
            self._is_ready = False
            process.kill()

    def _is_silent(self) -> bool:
        """Return whether a process that is ready shows no life."""
        raise NotImplementedError

    def _start_again(self) -> None:
        try:
            self.start()
        except OSError as error:
            delay = self._plan()
            log.error(  # noqa: TRY400 - there is no more to tell
                "the %s cannot be started (%s); it is tried again in %g s",
                self._name,
                error.strerror,
                max(delay, 1.0),
            )

    def _note_death(self, pid: int, code: int) -> None:
        self._drop()
        if code == START_FAILED and not self._was_ready:
            raise HaltServer(f"The {self._name} could not start.", START_FAILED)
        delay = self._plan()
        log.error(
            "the %s (process %d) ended by %s; it is started again %s",
            self._name,
            pid,
            _name_end(code),
            f"in {delay:g} s" if delay else "at once",
        )

    def _plan(self) -> float:
        delay = self._backoff.count_death()
        self._due = self._clock() + delay
        return delay

    def _drop(self) -> None:
        self._process = self._silent_at = None
        self._is_ready = False
        self._close_control()

    def _close_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    def _take_messages(self) -> None:
        with contextlib.suppress(BlockingIOError, OSError):
            while self._control is not None:
                message = self._control.recv(_MESSAGE_BYTES)
                self._heard_at = self._clock()
                self._is_ready |= message == READY
                self._was_ready |= message == READY
                if not message:
                    return

    def leave(self) -> None:
        """Close what only the arbiter needs; for a door, right after it was forked."""
        if self._process is not None:
            # The door is not its parent, and must neither wait for it nor warn of it.
            self._process.returncode = 0
        self._drop()

    def end(self) -> None:
        """Never start the process again from now on."""
        self._ending = True

    def close(self, wait_s: float) -> None:
        """End the process, and kill it if that takes too long. Idempotent."""
        self.end()
        process = self._process
        self._drop()
        if process is not None:
            try:
                process.wait(wait_s)
            except subprocess.TimeoutExpired:
                log.warning("the %s does not end and is killed", self._name)
                process.kill()
                process.wait()

    def attach(self, arbiter: Arbiter) -> None:
        """Have gunicorn's arbiter look after the process, next to its workers.

        Its loop and its end call these methods: at each signal, ``SIGCHLD`` among
        them, and else once a second. The process is looked at first, because
        ``reap_workers`` takes the exit code of every child.
        """
        for name in ("reap_workers", "manage_workers"):
            setattr(arbiter, name, self._before(getattr(arbiter, name)))
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
        """Return the arbiter's end, with that of the process in it."""
        raise NotImplementedError


def make_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables of a kept process: this package can be imported."""
    package = str(Path(modelserver.__file__).parent.parent)
    path = [package, *filter(None, [environ.get("PYTHONPATH")])]
    return {**environ, "PYTHONPATH": os.pathsep.join(path)}


def _name_end(code: int) -> str:
    """Name an exit code or a signal as ``Popen.returncode`` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
