"""A model's process as the front sees it: its start, socket, output and end."""

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
    from collections.abc import Sequence

log = logging.getLogger(__name__)

# How long a child is given to end by itself once its socket is closed, and once it was
# killed: only one that hangs inside the kernel takes longer.
_CLOSE_S, _KILL_S = 2.0, 3.0
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
        self._socket: socket.socket | None = None
        self._channel: Channel | None = None
        self._verdict = ""
        self._gone = threading.Event()

    @property
    def pid(self) -> int | None:
        """The process's id, once started."""
        return self._process.pid if self._process else None

    @property
    def open(self) -> bool:
        """Whether it was started and not told to end yet."""
        return self._socket is not None

    def start(self, held: tuple[int, ...] = ()) -> None:
        """Start it, in a session of its own.

        Args:
            held: files that the job opened, for it to read; it inherits them.
        """
        started: Future[subprocess.Popen[bytes]] = Future()
        with contextlib.ExitStack() as ours:
            self._socket, theirs = socket.socketpair()
            ours.enter_context(theirs)
            self._channel = Channel(self._socket.dup())
            self._channel.limit = _LOADING_BYTES
            printed, printing = os.pipe()
            ours.callback(os.close, printing)
            self.output.start(printed)
            threading.Thread(
                target=self._be_parent,
                args=(started, theirs.fileno(), held, printing),
                name=f"parent-{self._name}",
                daemon=True,
            ).start()
            self._process = started.result()

    def _be_parent(
        self,
        started: Future[subprocess.Popen[bytes]],
        theirs: int,
        held: tuple[int, ...],
        printing: int,
    ) -> None:
        """Start the process and stay until it is gone.

        To the kernel the thread that starts a process is its parent, and it kills the
        process when that thread ends (``limits.end_with_parent``).
        """
        try:
            process = subprocess.Popen(
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
        started.set_result(process)
        self._gone.wait()
        # Nobody else waits any more for a process that hung in the kernel.
        process.wait()

    def limit_messages(self, most: int) -> None:
        """Take messages of so many bytes at most; 16 MiB until it is told."""
        if self._channel is not None:
            self._channel.limit = most

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send one message, with copies of descriptors; one thread at a time.

        Raises:
            OSError: the process is gone.
        """
        if self._channel is None:
            raise OSError("the process was not started")
        self._channel.send(data, descriptors)

    def receive(self) -> bytes:
        """Wait for a message; one thread at a time.

        Raises:
            EOFError, OSError: the process is gone.
            ValueError: it sent something that is no message.
        """
        if self._channel is None:
            raise OSError("the process was not started")
        return self._channel.receive()[0]

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
        self.blame(reason)
        process = self._process
        if process is not None and process.poll() is None:
            # Its group, which it leads: processes that it may have started go, too.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)

    @property
    def verdict(self) -> str:
        """Why the front killed it; empty if it did not."""
        return self._verdict

    def reap(self) -> str:
        """Wait for its end, but not for long, and say how it ended."""
        process = self._process
        if process is None:
            return "never started"
        try:
            return self._wait_or_kill(process)
        finally:
            self._gone.set()

    def _wait_or_kill(self, process: subprocess.Popen[bytes]) -> str:
        try:
            code = process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            self.kill("it did not end by itself")
            try:
                code = process.wait(_KILL_S)
            except subprocess.TimeoutExpired:
                log.error(  # noqa: TRY400 - there is no more to tell
                    "%s: process %d hangs in the kernel and stays",
                    self._name,
                    process.pid,
                )
                return "an end that cannot be seen"
        how = name_end(code)
        return f"{how}: {self._verdict}" if self._verdict else how

    def hang_up(self) -> None:
        """Tell it to end. Idempotent."""
        ours, self._socket = self._socket, None
        if ours is not None:
            # A shutdown, unlike a close, also wakes our own thread out of its read.
            with ours, contextlib.suppress(OSError):
                ours.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close the socket and the output, once it was reaped. Idempotent."""
        if self._channel is not None:
            self._channel.close()
        self.output.join(_CLOSE_S)


def name_end(code: int) -> str:
    """Name a signal or an exit code as ``Popen.returncode`` gives it."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:  # a real-time signal has no name
        return f"signal {-code}"
