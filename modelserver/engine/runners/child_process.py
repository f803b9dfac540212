"""A model's process as the engine sees it: its start, socket, output and end.

A thread starts the process and waits for its end, as to the kernel that thread is its
parent; so nobody else waits for it who has other work to do.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from modelserver.core.channels import Channel
from modelserver.core.process_limits import private_bytes
from modelserver.engine.runners.environment import make_environ
from modelserver.engine.runners.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)

# How long a child is given to end by itself once its socket is closed, and once it was
# killed: only one that hangs inside the kernel takes longer.
CLOSE_S, KILL_S = 2.0, 3.0
STAYED = "it did not end by itself"
"""The reason to kill one that stays though its socket is closed."""
# Of a message before the model is loaded: its facts, a line for the log.
_LOADING_BYTES = 16 << 20


class ChildProcess:
    """A model's process, with its socket and output. Thread-safe once started.

    Args:
        name: the model's.
        gpu: the only GPU that it may see, as ``CUDA_VISIBLE_DEVICES`` names it.
    """

    def __init__(self, name: str, gpu: str | None = None) -> None:
        self._name = name
        self._gpu = gpu
        self.output = Output(name)
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._open = False
        self._verdict = ""
        # Once it is reaped, its id may be another process's.
        self._reaping = threading.Lock()
        self._exit = ""
        self._reaped = threading.Event()

    @property
    def pid(self) -> int | None:
        """The process's id, once started."""
        return self._process.pid if self._process else None

    @property
    def open(self) -> bool:
        """Whether it was started and not told to end yet."""
        return self._open

    @property
    def channel(self) -> Channel:
        """Our end of its socket.

        Raises:
            OSError: the process was not started.
        """
        if self._channel is None:
            raise OSError("the process was not started")
        return self._channel

    def start(
        self,
        held: tuple[int, ...],
        reaped: Callable[[], None],
        silent: Callable[[], None],
    ) -> None:
        """Start it, in a session of its own.

        Args:
            held: files that the job opened, for it to read; it inherits them.
            reaped: called in another thread once it has ended.
            silent: called after that, once all that it printed has been read.
        """
        started: Future[None] = Future()
        with contextlib.ExitStack() as ours:
            connection, theirs = socket.socketpair()
            ours.enter_context(theirs)
            self._channel, self._open = Channel(connection), True
            self._channel.limit = _LOADING_BYTES
            printed, printing = os.pipe()
            ours.callback(os.close, printing)
            self.output.start(printed)
            threading.Thread(
                target=self._be_parent,
                args=(started, theirs.fileno(), held, printing, reaped, silent),
                name=f"parent-{self._name}",
                daemon=True,
            ).start()
            started.result()

    def _be_parent(
        self,
        started: Future[None],
        theirs: int,
        held: tuple[int, ...],
        printing: int,
        *tell: Callable[[], None],
    ) -> None:
        """Start the process, wait for its end and reap it.

        To the kernel the thread that starts a process is its parent, and it kills the
        process when that thread ends (``process_limits.end_with_parent``).
        """
        try:
            self._process = process = subprocess.Popen(
                [sys.executable, "-m", "modelserver.runner.child", str(theirs)],
                stdin=subprocess.DEVNULL,
                stdout=printing,
                stderr=printing,
                pass_fds=(theirs, *held),
                env=make_environ(self._gpu),
                start_new_session=True,
            )
        except BaseException as error:  # noqa: BLE001 - for the thread that waits
            started.set_exception(error)
            return
        started.set_result(None)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        with self._reaping:
            self._exit = name_end(process.wait())
        self._reaped.set()
        reaped, silent = tell
        reaped()
        self.output.join(CLOSE_S)
        silent()

    def has_sent(self) -> bool:
        """Check whether something that it sent waits to be read."""
        try:
            return self._channel is not None and self._channel.has_more()
        except (OSError, ValueError):  # closed meanwhile
            return False

    def memory(self) -> int:
        """Return the bytes of memory that it uses alone."""
        return private_bytes(self._process.pid) if self._process else 0

    def blame(self, reason: str) -> None:
        """Note why it is about to end; the first reason is kept."""
        self._verdict = self._verdict or reason

    def kill(self, reason: str) -> None:
        """End it at once, even if it is stopped; the first reason is kept."""
        with self._reaping:
            self.blame(reason)
            if self._process is not None and not self._exit:
                # Its group, which it leads: processes that it may have started go, too.
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    @property
    def verdict(self) -> str:
        """Why the engine killed it; empty if it did not."""
        return self._verdict

    @property
    def reaped(self) -> bool:
        """Whether it has ended."""
        return self._reaped.is_set()

    @property
    def end(self) -> str:
        """How it ended, and why."""
        if self._process is None:
            return "never started"
        if not self._exit:
            return "an end that cannot be seen"
        return f"{self._exit}: {self._verdict}" if self._verdict else self._exit

    def reap(self) -> str:
        """Wait for its end, but not for long, and say how it ended; blocks."""
        if self._process is not None and not self._reaped.wait(CLOSE_S):
            self.kill(STAYED)
            if not self._reaped.wait(KILL_S):
                self.give_up()
        return self.end

    def give_up(self) -> None:
        """Log that it hangs in the kernel."""
        log.error("%s: process %s hangs in the kernel and stays", self._name, self.pid)

    def hang_up(self) -> None:
        """Tell it to end. Idempotent."""
        self._open = False
        if self._channel is not None:
            self._channel.hang_up()

    def close(self) -> None:
        """Close the socket and the output, once it was reaped. Idempotent."""
        if self._channel is not None:
            self._channel.close()
        self.output.join(CLOSE_S)


def name_end(code: int) -> str:
    """Name a signal or an exit code as ``Popen.returncode`` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
