"""The decoders' processes: made, replaced when they end, and heard."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections import Counter, deque
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from modelserver.core.frames import Memory
from modelserver.core.messages.decodes import (
    Ended,
    NotSpawned,
    Spawned,
    Started,
    ToEngine,
)
from modelserver.engine.decoder_jobs import Worker
from modelserver.engine.decoder_template import COMMAND, Template

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from modelserver.engine.loop import Loop

log = logging.getLogger(__name__)

# When a decoder dies its template tells how, unless it has died itself, or is stopped.
_JUDGE_S = 0.5
# A template imports for some tenths of a second, on a busy machine for some seconds.
_START_S = 30.0
_AGAIN_S, _LONGEST_AGAIN_S = 0.1, 10.0


class _Death(NamedTuple):
    """A decoder of which somebody wants to know how it ended."""

    worker: Worker
    tell: Callable[[str, bool], None]


class Crew:
    """Keeps so many decoders. For the loop's thread.

    Args:
        loop: tells of their messages and ends.
        count: of processes.
        sizes: bytes of each one's memory, and of what it may use beside.
        command: starts the template.
        ready: called with a decoder that is new.
        told: called with a decoder and its message; raises ValueError if that is
            nonsense.
        gone: called with a decoder whose process is gone.

    Attributes:
        ended: processes that ended, by reason.
    """

    def __init__(
        self,
        loop: Loop,
        count: int,
        sizes: tuple[int, int],
        command: Sequence[str] = COMMAND,
        *,
        ready: Callable[[Worker], None],
        told: Callable[[Worker, ToEngine], None],
        gone: Callable[[Worker], None],
    ) -> None:
        self.ended: Counter[str] = Counter()
        self._loop = loop
        self._count = count
        self._sizes = sizes
        self._command = command
        self._ready = ready
        self._told = told
        self._gone = gone
        self._messages = msgspec.msgpack.Decoder(ToEngine)
        self._numbers = itertools.count()
        self._template: Template | None = None
        self._workers: dict[int, Worker] = {}
        self._open = False
        self._failures = 0
        # How processes ended, by their ids: the template tells before the kernel, or
        # after it.
        self._last: deque[tuple[int, str]] = deque(maxlen=64)
        self._dying: dict[int, _Death] = {}
        self._told_unfiltered = False

    def __iter__(self) -> Iterator[Worker]:
        """Give the decoders, those that are starting too."""
        return iter(list(self._workers.values()))

    def __len__(self) -> int:
        return len(self._workers)

    @property
    def pids(self) -> list[int]:
        """The processes' ids, the template's first."""
        pids = [self._template.pid if self._template is not None else None]
        return [pid for pid in (*pids, *(worker.pid for worker in self)) if pid]

    def start(self) -> None:
        """Start the template and order the decoders."""
        self._open = True
        self._start()

    def _start(self) -> None:
        if not self._open:
            return
        self._template = Template(self._loop, self._hear, self._lose, self._command)
        try:
            self._template.start()
        except OSError as error:
            log.warning("The decoders' template cannot be started: %s", error)
            self._lose(self._template)
            return
        for _ in range(self._count):
            self._spawn()

    def _lose(self, template: Template) -> None:
        """Start another template, later each time that one fails at once."""
        if not self._open or template is not self._template:
            return
        self.ended["template"] += 1
        if not self._failures:
            log.warning("The decoders' template ended; another one is started")
        self._template = None
        for worker in self:
            if not worker.ready:
                self._bury(worker)
        for pid in list(self._dying):
            self._judge(pid, "")
        wait_s = min(_LONGEST_AGAIN_S, _AGAIN_S * 2**self._failures)
        self._loop.after(wait_s if self._failures else 0.0, self._start)
        self._failures += 1

    def _spawn(self) -> None:
        """Order a decoder, unless there are enough of this template."""
        template = self._template
        there = sum(worker.template is template for worker in self)
        if template is None or not self._open or there >= self._count:
            return
        number = next(self._numbers)
        try:
            connection = template.spawn(number, *self._sizes)
        except BlockingIOError:  # it does not read: somebody has stopped it
            template.kill()
            return
        except OSError as error:
            log.warning("A decoder cannot be started: %s", error)
            self._loop.after(_AGAIN_S, self._spawn)
            return
        worker = Worker(number, connection, template)
        self._workers[number] = worker
        self._loop.watch(connection.fileno(), partial(self._read, worker))
        self._loop.after(_START_S, self._look_at_start, worker)

    def _look_at_start(self, worker: Worker) -> None:
        if not worker.ready and worker.number in self._workers and self._template:
            log.warning("A decoder was not there after %g s", _START_S)
            self._template.kill()

    def _hear(
        self, message: Spawned | NotSpawned | Ended, descriptors: list[int]
    ) -> None:
        """Take a message of the template."""
        if isinstance(message, Ended):
            self._last.append((message.pid, message.how))
            self._judge(message.pid, message.how)
            return
        worker = self._workers.get(message.number)
        if worker is None or len(descriptors) != isinstance(message, Spawned):
            _close(descriptors)
        elif isinstance(message, Spawned):
            worker.pid, worker.pidfd = message.pid, descriptors[0]
            self._loop.watch(worker.pidfd, partial(self._end, worker))
            self._look_if_ready(worker)
        else:
            log.warning("A decoder cannot be started: %s", message.reason)
            self._bury(worker)
            self._loop.after(_AGAIN_S, self._spawn)

    def _look_if_ready(self, worker: Worker) -> None:
        if worker.ready and worker.state == "starting":
            self._failures = 0
            self._ready(worker)

    def _read(self, worker: Worker) -> None:
        """Take a message of a decoder; another one is another event."""
        try:
            data, descriptors = worker.connection.receive()
        except BlockingIOError:
            return
        except (EOFError, OSError):
            # Its pidfd tells when it is gone; else it never was there.
            self._loop.unwatch(worker.connection.fileno())
            worker.kill()
            return
        except ValueError as error:
            self._refuse(worker, error)
            return
        try:
            self._take(worker, self._messages.decode(data), descriptors)
        except (msgspec.DecodeError, ValueError, OSError) as error:
            self._refuse(worker, error)

    def _take(self, worker: Worker, message: ToEngine, descriptors: list[int]) -> None:
        if not isinstance(message, Started):
            _close(descriptors)
            self._told(worker, message)
            return
        if worker.memory is not None or len(descriptors) != 1:
            _close(descriptors)
            raise ValueError("a second start")
        worker.memory = Memory(descriptors[0], message.nbytes)
        if not message.filtered and not self._told_unfiltered:
            self._told_unfiltered = True
            log.warning(
                "This system does not filter the decoders' system calls; "
                "docs/reliability.md says what that means"
            )
        self._look_if_ready(worker)

    def _refuse(self, worker: Worker, error: Exception) -> None:
        """End a decoder that an image has taken over."""
        if worker.state != "ending":
            log.warning("A decoder sent nonsense: %s", error)
            self.kill(worker, "nonsense")

    def kill(self, worker: Worker, why: str) -> None:
        """Kill a decoder; it is gone a little later."""
        self.ended[why] += 1
        worker.why = why
        worker.kill()

    def _end(self, worker: Worker) -> None:
        """Replace a decoder that is gone."""
        # It may have answered its last job before.
        self._read(worker)
        if worker.number in self._workers:
            self._bury(worker)
            self._spawn()
            self._gone(worker)

    def _bury(self, worker: Worker) -> None:
        """Forget a decoder that is gone, or never came."""
        del self._workers[worker.number]
        self._loop.unwatch(worker.connection.fileno())
        if worker.pidfd >= 0:
            self._loop.unwatch(worker.pidfd)
        worker.bury()

    def when_known(self, worker: Worker, tell: Callable[[str, bool], None]) -> None:
        """Tell how a decoder that is gone has ended, soon.

        Args:
            tell: called with a signal or exit code, empty if nobody knows it, and
                whether somebody else ended it: its template's end, or a SIGKILL.
        """
        self._dying[worker.pid] = death = _Death(worker, tell)
        if how := dict(self._last).get(worker.pid):
            self._judge(worker.pid, how)
        elif worker.template is not self._template:
            self._judge(worker.pid, "")
        else:
            self._loop.after(_JUDGE_S, self._judge_late, death)

    def _judge_late(self, death: _Death) -> None:
        if self._dying.get(death.worker.pid) is death:
            self._judge(death.worker.pid, "")

    def _judge(self, pid: int, how: str) -> None:
        death = self._dying.pop(pid, None)
        if death is not None:
            outside = death.worker.template is not self._template
            death.tell(how, outside or how == signal.SIGKILL.name)

    def close(self) -> None:
        """End all processes. Idempotent."""
        self._open = False
        if self._template is not None:
            self._template.close()
        for worker in self:
            worker.kill()
            self._bury(worker)
            self._gone(worker)
        for pid in list(self._dying):
            self._judge(pid, "")


def _close(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
