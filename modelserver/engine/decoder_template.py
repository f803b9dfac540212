"""The template of decoders as the engine sees it: its start, its orders, its end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

import modelserver
from modelserver.core.messages.decodes import Ended, FromTemplate, Spawn
from modelserver.core.packets import PacketSocket, pair

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from modelserver.core.messages.decodes import NotSpawned, Spawned
    from modelserver.engine.loop import Loop

    Told = Callable[[Spawned | NotSpawned | Ended, list[int]], None]

log = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "modelserver.decoder.process")
# Of the environment: nothing that is secret, as strangers' images are decoded in it.
_KEPT = {"PATH", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TZ", "VIRTUAL_ENV"}
_REAP_S = 2.0


class Template:
    """The process that decoders are forked from. For the loop's thread.

    It must be started there, too: to the kernel the thread that starts a process is its
    parent, and it kills the process when that thread ends.

    Args:
        loop: tells of its messages and its end.
        told: called with each message and its descriptors.
        ended: called once, when the process is gone.
        command: starts it; the descriptor of its socket is added.
    """

    def __init__(
        self,
        loop: Loop,
        told: Told,
        ended: Callable[[Template], None],
        command: Sequence[str] = COMMAND,
    ) -> None:
        self._loop = loop
        self._told = told
        self._ended = ended
        self._command = command
        self._messages = msgspec.msgpack.Decoder(FromTemplate)
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: PacketSocket | None = None
        self._pidfd = -1

    @property
    def pid(self) -> int | None:
        """The process's id, once started."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process; it imports for some tenths of a second.

        Raises:
            OSError: the system has no room for one more.
        """
        ours, theirs = pair()
        try:
            self._process = subprocess.Popen(
                [*self._command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=_environ(),
                start_new_session=True,
            )
            self._pidfd = os.pidfd_open(self._process.pid)
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.socket.settimeout(0)
        self._socket = ours
        self._loop.watch(ours.fileno(), self._read)
        self._loop.watch(self._pidfd, self._end)

    def spawn(self, number: int, memory_bytes: int, work_bytes: int) -> PacketSocket:
        """Order a decoder; return our end of its socket.

        Raises:
            OSError: the process is gone, or takes no more orders.
        """
        if self._socket is None:
            raise BrokenPipeError
        ours, theirs = pair()
        try:
            order = msgspec.msgpack.encode(Spawn(number, memory_bytes, work_bytes))
            self._socket.send(order, (theirs.fileno(),))
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        ours.socket.settimeout(0)
        return ours

    def _read(self) -> None:
        """Take the messages that are there."""
        while self._socket is not None:
            try:
                data, descriptors = self._socket.receive()
                message = self._messages.decode(data)
            except BlockingIOError:
                return
            except (EOFError, OSError, ValueError, msgspec.DecodeError):
                self._loop.unwatch(self._socket.fileno())
                self.kill()
                return
            self._told(message, descriptors)

    def kill(self) -> None:
        """Kill the process, and with it all decoders. Idempotent."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    def _end(self) -> None:
        self._read()
        self.close()
        self._ended(self)

    def close(self) -> None:
        """Kill and reap the process, close all. Idempotent."""
        self.kill()
        if self._socket is not None:
            self._loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._socket = None
        if self._pidfd >= 0:
            self._loop.unwatch(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(_REAP_S)


def _environ() -> dict[str, str]:
    """Return the environment: this package importable, one thread, one heap."""
    environ = {
        name: value
        for name, value in os.environ.items()
        if name in _KEPT or name.startswith("PYTHON")
    }
    package = str(Path(modelserver.__file__).parent.parent)
    path = [package, *filter(None, [environ.get("PYTHONPATH")])]
    environ["PYTHONPATH"] = os.pathsep.join(path)
    # Else NumPy makes threads, and each thread of a codec a heap of its own.
    return environ | {"OPENBLAS_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}


def can_fork() -> bool:
    """Return whether this system has what decoders in processes need."""
    needs = ("fork", "memfd_create", "pidfd_open")
    return all(hasattr(os, name) for name in needs) and hasattr(
        socket, "SOCK_SEQPACKET"
    )
