"""The runner that keeps the session in a process of its own.

A valid frozen graph can kill its process, a run cannot be interrupted, and GPU memory
comes back only when a process exits: so each model has one, which may die or be killed
without harm to the front or to other models.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import modelserver
from modelserver.errors import (
    GraphError,
    ModelCrashed,
    OutOfMemory,
    RequestError,
    RunFailed,
    RunnerDied,
)
from modelserver.runners.frames import Arena, Frame
from modelserver.runners.protocol import (
    Answer,
    Facts,
    Job,
    LoadError,
    Place,
    Ran,
    Reply,
    Run,
    RunError,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelserver.settings import LogFormat

log = logging.getLogger(__name__)

# How long a child is given to end by itself once its socket is closed.
_CLOSE_S = 2.0
# One run more than the child has slots lies in its socket, so that a slot that gets
# free starts at once and does not wait for the front to hear of it.
_AHEAD = 1


class ProcessRunner:
    """Runs a graph in a child process; see ``Runner`` for the promises.

    Args:
        job: what to load.
        arena_bytes: memory for all images in flight.
        load_timeout_s: a child that is not ready by then is killed.
        log_format: for the child's log lines.
    """

    ahead = _AHEAD

    def __init__(
        self,
        job: Job,
        *,
        arena_bytes: int,
        load_timeout_s: float = 120.0,
        log_format: LogFormat = "auto",
    ) -> None:
        self._job = job
        self._arena = Arena(arena_bytes)
        self._load_timeout_s = load_timeout_s
        self._log_format = log_format
        self._decoder = msgspec.msgpack.Decoder(Reply)
        self._numbers = count()
        self._pending: dict[int, Future[Sequence[Answer]]] = {}
        self._lock = threading.Lock()
        self._sending = threading.Lock()
        self._ended: Future[str] = Future()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._connection: Connection
        self._reader: threading.Thread | None = None
        self._dead = False

    @property
    def ended(self) -> Future[str]:
        """Resolves when the process is gone, with the signal's name or exit code."""
        return self._ended

    @property
    def pid(self) -> int | None:
        """The child's process id, once started."""
        return self._process.pid if self._process else None

    def open(self) -> Facts:
        """Start the process and wait until its model is warm; see ``Runner.open``."""
        self._arena.open()
        try:
            self._start()
            facts = self._load()
        except BaseException:
            self.close()
            raise
        self._reader = threading.Thread(
            target=self._receive, name=f"replies-{self._job.name}", daemon=True
        )
        self._reader.start()
        return facts

    def _start(self) -> None:
        self._socket, theirs = socket.socketpair()
        self._connection = Connection(os.dup(self._socket.fileno()))
        descriptors = (theirs.fileno(), self._arena.descriptor)
        command = [sys.executable, "-m", "modelserver.runners.child"]
        command += [*map(str, descriptors), self._log_format]
        with theirs:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                pass_fds=descriptors,
                env=self._environment(),
                start_new_session=True,
            )

    def _environment(self) -> dict[str, str]:
        """Environment of the child: this package importable, one GPU visible."""
        environ = dict(os.environ)
        package = str(Path(modelserver.__file__).parent.parent)
        path = [package, *filter(None, [environ.get("PYTHONPATH")])]
        environ["PYTHONPATH"] = os.pathsep.join(path)
        environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        environ.pop("API_TOKEN", None)
        if self._job.gpu is not None:
            environ["CUDA_VISIBLE_DEVICES"] = self._job.gpu
        return environ

    def _load(self) -> Facts:
        """Send the job and wait for the child's first message."""
        try:
            self._connection.send_bytes(msgspec.msgpack.encode(self._job))
            if not self._connection.poll(self._load_timeout_s):
                raise ModelCrashed(
                    f"The model was not ready after {self._load_timeout_s:g} s "
                    "(LOAD_TIMEOUT_S) and its process was ended."
                )
            reply = self._decoder.decode(self._connection.recv_bytes())
        except (EOFError, OSError) as error:
            how = self._reap()
            raise ModelCrashed(
                f"The model's process died while loading it: {how}.",
                from_outside=how == signal.SIGKILL.name,
            ) from error
        if isinstance(reply, LoadError):
            raise GraphError(reply.reason)
        if not isinstance(reply, Facts):
            raise ModelCrashed("The model's process sent no facts first.")
        return reply

    def _reap(self) -> str:
        """Wait for the child's end and say how it ended."""
        process = self._process
        if process is None:
            return "never started"
        try:
            code = process.wait(_CLOSE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
        if code >= 0:
            return f"exit code {code}"
        return signal.Signals(-code).name

    def allocate(self, shape: tuple[int, ...]) -> Frame:
        """See ``Runner.allocate``."""
        return self._arena.allocate(shape)

    def run(self, frames: Sequence[Frame]) -> Future[Sequence[Answer]]:
        """See ``Runner.run``."""
        future: Future[Sequence[Answer]] = Future()
        number = next(self._numbers)
        with self._lock:
            if self._dead:
                raise RunnerDied
            self._pending[number] = future
        places = [Place(frame.offset, frame.pixels.shape) for frame in frames]
        try:
            with self._sending:
                self._connection.send_bytes(msgspec.msgpack.encode(Run(number, places)))
        except OSError:
            # The reader sees the same end and fails every pending future, this one too.
            log.debug("%s: the process is gone", self._job.name)
        return future

    def _receive(self) -> None:
        """Hand each reply to whom it belongs, until the child is gone."""
        try:
            while True:
                self._settle(self._decoder.decode(self._connection.recv_bytes()))
        except (EOFError, OSError):
            pass
        except (msgspec.DecodeError, ValueError, TypeError, KeyError):
            log.exception("%s: its process sent nonsense", self._job.name)
            self._kill()
        how = self._reap()
        with self._lock:
            self._dead = True
            pending, self._pending = self._pending, {}
        for future in pending.values():
            future.set_exception(RunnerDied())
        self._ended.set_result(how)

    def _settle(self, reply: Reply) -> None:
        if isinstance(reply, Ran):
            answers = [
                Answer({role: a.unpack() for role, a in one.items()}, reply.run_ms)
                for one in reply.outputs
            ]
            self._take(reply.number).set_result(answers)
        elif isinstance(reply, RunError):
            log.warning(
                "%s: a run failed: %s", self._job.name, reply.reason.splitlines()[:1]
            )
            error: RequestError = OutOfMemory() if reply.out_of_memory else RunFailed()
            self._take(reply.number).set_exception(error)
        else:
            raise TypeError("a load was answered twice")

    def _take(self, number: int) -> Future[Sequence[Answer]]:
        with self._lock:
            return self._pending.pop(number)

    def _kill(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def close(self) -> None:
        """Close the socket, which ends the child, or else kill it. Idempotent."""
        connection, self._socket = self._socket, None
        if connection is not None:
            # A shutdown, unlike a close, also wakes our own thread out of its read.
            with connection:
                connection.shutdown(socket.SHUT_RDWR)
            self._reap()
            if self._reader is not None:
                self._reader.join(_CLOSE_S)
            self._connection.close()
        self._arena.close()
